"""Whether texts survive as tokens: what cannot be written, and what is cut.

One question decides: would a student who writes every token of a target right
be right? If not, its score would measure the vocabulary or the lengths, so such
targets are refused before anything is trained on them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dss_jax import vocabularies
from dss_jax.base import text_normalization
from dss_jax.base.errors import UserError, one_line
from dss_jax.data.pairs.output_reading import OutputReader
from dss_jax.data.pairs.subtasks import MethodOptions, Part, SubTask, fill
from dss_jax.data.tokens.token_arrays import ExampleSet
from dss_jax.vocabularies import SentencePieceVocabulary, Vocabulary, with_eos

# Texts and characters that a message shows.
_SHOWN = 5
_VOCABULARY_FIELD = "TrainConfig.vocabulary"
_LENGTHS_FIELD = "DatasetConfig.task_feature_lengths"


def check_labels(
  labels: Iterable[str],
  vocabulary: Vocabulary,
  *,
  remedy: str = "",
  fields: Sequence[str] = (_VOCABULARY_FIELD,),
) -> None:
  """Checks a closed set of labels.

  Args:
    labels: all labels there are.
    vocabulary: the student's.
    remedy: what to do about labels that cannot be written; empty where the
      vocabulary can still be chosen.
    fields: the options to change.

  Raises:
    UserError: for labels that the vocabulary cannot write, or that nobody could
      tell apart in an output.
  """
  labels = list(labels)
  lost = [label for label in labels if not _is_label(label, vocabulary)]
  if lost:
    raise UserError(
      f"the vocabulary {vocabulary.name} cannot write the labels"
      f" {_listed(lost)}: {remedy or _remedy(lost, vocabulary)}",
      fields=fields,
    )
  by_form: dict[str, str] = {}
  for label in labels:
    other = by_form.setdefault(text_normalization.normal(label), label)
    if other != label:
      raise UserError(
        f"the labels {other!r} and {label!r} are the same answer once their"
        " letters and spaces have their usual forms (NFKC): rename one, or"
        " leave it out",
        fields=[field for field in fields if field != _VOCABULARY_FIELD],
      )


def _is_label(text: str, vocabulary: Vocabulary) -> bool:
  return bool(text.strip()) and vocabularies.can_write(vocabulary, text)


def _remedy(labels: Iterable[str], vocabulary: Vocabulary) -> str:
  """What to do about labels that cannot be written, before training."""
  every = "".join(labels)
  missing = vocabularies.missing_characters(vocabulary, every)
  if not missing or not isinstance(vocabulary, SentencePieceVocabulary):
    return "write them otherwise, or leave them out"
  name = vocabularies.NameParts(
    vocabulary.path,
    vocabulary.extra_ids,
    (*vocabulary.added_tokens, *missing),
  )
  return (
    f"it lacks {_listed(missing)}; name the vocabulary {name} to add them, take"
    " bytes, or write the labels otherwise"
  )


def _listed(texts: Iterable[str]) -> str:
  """The first of some texts, quoted: `'<', '{' and 3 more`."""
  texts = list(texts)
  shown = ", ".join(repr(one_line(text, longest=40)) for text in texts[:_SHOWN])
  more = len(texts) - _SHOWN
  return f"{shown} and {more} more" if more > 0 else shown


@dataclasses.dataclass
class TargetChecks:
  """Looks at the targets of one sub-task, one after the other.

  Attributes:
    subtask: the sub-task.
    options: its separators.
    vocabulary: the student's.
    max_targets: longest target in tokens, end id included; None for no limit.
    num_targets: those seen.
    cut: how many are longer.
    longest: tokens of the longest, end id included.
    unwritable: labels that the vocabulary cannot write -> how often.
    cut_off: labels that cutting loses -> how often.
    not_found: labels that are not found again for another reason -> how often.
  """

  subtask: SubTask
  options: MethodOptions
  vocabulary: Vocabulary
  max_targets: int | None = None
  num_targets: int = 0
  cut: int = 0
  longest: int = 0
  unwritable: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  cut_off: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  not_found: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )

  @functools.cached_property
  def _reader(self) -> OutputReader:
    return OutputReader.of(self.subtask, self.options, self.vocabulary)

  @functools.cached_property
  def _known(self) -> dict[str, bool]:
    return {}

  def add(self, label: str, ids: Sequence[int]) -> None:
    """Looks at one target.

    Args:
      label: what the target names, as the user wrote it.
      ids: all of its tokens, without the end id.
    """
    self.num_targets += 1
    self.longest = max(self.longest, len(ids) + 1)
    written = with_eos(ids, self.max_targets)
    is_cut = len(written) <= len(ids)
    self.cut += is_cut
    if not self.subtask.uses_label:
      return
    if not label and self.options.unreadable_labels == "blank":
      return  # a student that writes nothing writes this
    if label not in self._known:
      self._known[label] = _is_label(label, self.vocabulary)
    if not self._known[label]:
      self.unwritable[label] += 1
    elif not is_cut and self._reader.parts == [Part("label", is_field=True)]:
      return  # nothing but a label that can be written
    elif not self._finds(label, ids):
      self.not_found[label] += 1
    elif is_cut and not self._finds(label, written):
      self.cut_off[label] += 1

  def _finds(self, label: str, ids: Sequence[int]) -> bool:
    found = self._reader.label(self.vocabulary.decode(ids))
    return text_normalization.same(label, found)

  @property
  def num_lost(self) -> int:
    """Targets that would be wrong though every token is right."""
    return (
      self.unwritable.total() + self.cut_off.total() + self.not_found.total()
    )

  def check(self) -> None:
    """Raises UserError for labels that could never be right."""
    if self.unwritable:
      raise UserError(
        f"{self._lost(self.unwritable)} cannot be written by the vocabulary"
        f" {self.vocabulary.name}: {_remedy(self.unwritable, self.vocabulary)}",
        fields=_VOCABULARY_FIELD,
      )
    if self.not_found:
      raise UserError(
        f"{self._lost(self.not_found)} cannot be found again, as the labels"
        " hold what separates them from rationales, or the vocabulary"
        f" {self.vocabulary.name} does not write it: choose other separators",
        fields=(
          "MethodOptions.label_separator",
          "MethodOptions.rationale_separator",
        ),
      )
    if self.cut_off:
      remedy = f"set the length of targets to {self.longest}"
      fields = [_LENGTHS_FIELD]
      if self.subtask.uses_rationale:
        remedy += ", or leave long rationales out with max_rationale_tokens"
        fields.append("MethodOptions.max_rationale_tokens")
      raise UserError(
        f"{self._lost(self.cut_off)} are cut off at {self.max_targets} tokens:"
        f" {remedy}",
        fields=fields,
      )

  def _lost(self, labels: collections.Counter[str]) -> str:
    """`the labels of 3 of 20 targets of sub-task label ('yes', ...)`."""
    return (
      f"the labels of {labels.total()} of {self.num_targets} targets of sub-task"
      f" {self.subtask.name} ({_listed(labels)})"
    )

  def same_labels(self) -> list[tuple[str, str]]:
    """Pairs of labels of different spelling that count as the same answer."""
    by_form: dict[str, str] = {}
    pairs = []
    for label in self._known:
      other = by_form.setdefault(text_normalization.normal(label), label)
      if other != label:
        pairs.append((other, label))
    return pairs


def longest_output(
  subtask: SubTask,
  options: MethodOptions,
  labels: Sequence[str] | None,
  max_targets: int | None,
  vocabulary: Vocabulary,
) -> int | None:
  """Tokens of the longest output worth asking for, its end id included.

  The same for training's evaluations and for `dss-jax infer`: a search that may
  write longer texts can find others.

  Args:
    subtask: what is asked.
    options: its separators.
    labels: all labels there are; None for free text.
    max_targets: the longest target in training; None for no limit.
    vocabulary: the student's.

  Returns:
    None where it is not known.
  """
  if not labels or subtask.writes_rationale or not subtask.uses_label:
    return max_targets
  parts = subtask.target_parts(options)
  longest = 1 + max(
    len(vocabulary.encode(fill(parts, {"label": label}))) for label in labels
  )
  return longest if max_targets is None else min(longest, max_targets)


# --- what is reported before training ------------------------------------------


def describe(
  examples: ExampleSet,
  vocabulary: Vocabulary,
  lengths: Mapping[str, int],
  *,
  num_seen: str = "",
) -> list[str]:
  """Lines about what the vocabulary does not know and what is cut.

  Args:
    examples: what is trained on, or a sample of it.
    vocabulary: the student's.
    lengths: of "inputs" and "targets", as the examples were cut.
    num_seen: such as " of the first 4096 examples", where it is a sample.
  """
  lines = []
  for subtask in examples.subtasks:
    where = f"sub-task {subtask.name}"
    for side, ids, counts in (
      ("inputs", subtask.inputs, subtask.input_lengths),
      ("targets", subtask.targets, subtask.target_lengths),
    ):
      unknown = int(np.count_nonzero(ids == vocabulary.unk_id))
      if unknown:
        lines.append(
          f"{where}: {unknown} tokens of its {side}{num_seen}"
          f" ({100 * unknown / len(ids):.2g} %) are unknown to the vocabulary;"
          " `dss-jax data stats` shows which characters it lacks"
        )
      limit = lengths.get(side)
      known = examples.cut.get(subtask.name)
      cut = int(np.count_nonzero(counts == limit))
      if known is not None:
        cut = known.get(side, 0)
      if cut:
        fate = "are cut to" if known is not None else "fill, or are cut to,"
        lines.append(
          f"{where}: {cut} of {len(subtask)} {side}{num_seen} {fate}"
          f" {limit} tokens (task_feature_lengths)"
        )
  lines += [
    f"the labels {first!r} and {second!r} count as the same answer"
    for first, second in list(examples.same_labels)[:_SHOWN]
  ]
  return lines or ["texts: the vocabulary knows all of them, and none is cut"]


def missing_in_templates(
  subtasks: Iterable[SubTask], options: MethodOptions, vocabulary: Vocabulary
) -> list[str]:
  """Lines about prefixes and separators that the vocabulary cannot write."""
  lines: dict[str, None] = {}
  for subtask in subtasks:
    for part in subtask.input_parts(options) + subtask.target_parts(options):
      missing = not part.is_field and vocabularies.missing_characters(
        vocabulary, part.text
      )
      if missing:
        lines[
          f"the vocabulary lacks {_listed(missing)} of {part.text!r}; the student"
          " reads and writes the same unknown token for all of them"
        ] = None
  return list(lines)
