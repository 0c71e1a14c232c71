"""Finding the label and the rationale in what a student wrote.

A separator is looked for as the vocabulary writes it, not as the configuration
spells it: where a model lacks `[`, its students write an unknown token in its
place, and that is what stands in their outputs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from dss_jax.data.pairs.subtasks import MethodOptions, Part, SubTask
from dss_jax.vocabularies import Vocabulary

_LABEL = Part("label", is_field=True)
_RATIONALE = Part("rationale", is_field=True)


@dataclasses.dataclass(frozen=True)
class OutputReader:
  """Takes apart what a student writes for one sub-task.

  Attributes:
    parts: those of the target's template; fixed text as the vocabulary writes
      it, without the space at its ends.
  """

  parts: Sequence[Part]

  @classmethod
  def of(
    cls, subtask: SubTask, options: MethodOptions, vocabulary: Vocabulary
  ) -> OutputReader:
    """Makes the reader of a sub-task.

    Args:
      subtask: what the student was asked to do.
      options: those trained with; they hold the separators.
      vocabulary: the student's.
    """
    return cls(
      [
        part
        if part.is_field
        else Part(_written(vocabulary, part.text), is_field=False)
        for part in subtask.target_parts(options)
      ]
    )

  def label(self, text: str) -> str:
    """The label in an output.

    It is empty if the template has the label after a separator and the student
    never wrote that separator. An output without a label is returned whole.
    """
    if _LABEL in self.parts:
      before, after = self._separators(_LABEL)
      if before is not None:
        # The last one counts: a rationale may contain it.
        _, found, text = _partition(text, before, last=True)
        if not found:
          return ""
      if after is not None:
        text = _partition(text, after)[0]
    return text.strip()

  def rationale(self, text: str) -> str:
    """The rationale in an output: what the separators leave of it."""
    before, after = self._separators(_RATIONALE)
    if after is not None:
      head, found, _ = _partition(text, after, last=True)
      text = head if found else text
    if before is not None:
      text = _partition(text, before)[2]
    return text.strip()

  def label_and_rationale(self, text: str) -> tuple[str | None, str | None]:
    """Both; None for a part that outputs of the sub-task never have."""
    return (
      self.label(text) if _LABEL in self.parts else None,
      self.rationale(text) if _RATIONALE in self.parts else None,
    )

  def _separators(self, field: Part) -> tuple[str | None, str | None]:
    """The fixed text before and after a field; None where there is none."""
    index = list(self.parts).index(field)
    around = (
      self.parts[index - 1] if index > 0 else None,
      self.parts[index + 1] if index + 1 < len(self.parts) else None,
    )
    before, after = (
      None if part is None or part.is_field else part.text for part in around
    )
    return before, after


@functools.lru_cache(maxsize=1024)
def _written(vocabulary: Vocabulary, text: str) -> str:
  return vocabulary.decode(vocabulary.encode(text)).strip()


def _partition(
  text: str, separator: str, *, last: bool = False
) -> tuple[str, str, str]:
  """As `str.partition`; a separator that the vocabulary drops is not found."""
  if not separator:
    return ("", "", text) if last else (text, "", "")
  return text.rpartition(separator) if last else text.partition(separator)
