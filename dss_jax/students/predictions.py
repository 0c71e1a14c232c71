"""What a student is asked, how, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.data.pairs.subtasks import MethodOptions, Part, SubTask
from dss_jax.datasets.records import Rationale, Record
from dss_jax.models.decoding.generation import DecodeOptions

OUTPUTS = ("label", "rationale")


@dataclasses.dataclass(frozen=True)
class PredictOptions:
  """What is asked of a student, and how its answers are found.

  Attributes:
    outputs: what to predict, of OUTPUTS. A student that writes both in one
      text is asked once, else once for each.
    decode: how outputs are found, where none of the below says otherwise.
    num_best: how many outputs to tell of, found by beam search.
    samples: sample so many texts that reason before they name a label, and
      take the label that most of them name (self-consistency, arXiv
      2203.11171); 0 for none. `decode` has the temperature.
    labels: all labels there are; None takes those that the student knows.
    constrain: whether only those labels can be predicted; None where they are
      known and the student writes nothing beside them.
    max_input: longest input in tokens, end id included; None takes what the
      student was trained on.
    seed: of sampling.
  """

  outputs: tuple[str, ...] = ("label",)
  decode: DecodeOptions = dataclasses.field(default_factory=DecodeOptions)
  num_best: int = 1
  samples: int = 0
  labels: tuple[str, ...] | None = None
  constrain: bool | None = None
  max_input: int | None = None
  seed: int = 0

  def __post_init__(self):
    """Checks what can be checked without a student.

    Raises:
      UserError: a value outside of the above.
    """
    unknown = [name for name in self.outputs if name not in OUTPUTS]
    if unknown or not self.outputs:
      raise UserError(
        f"--outputs has {','.join(self.outputs)!r}; allowed: label, rationale"
        " or label,rationale"
      )
    for name, least in (("num_best", 1), ("samples", 0), ("max_input", 1)):
      value = getattr(self, name)
      if value is not None and not least <= value <= MAX_COUNTS[name]:
        raise UserError(
          f"--{_FLAGS.get(name, name)} is {value}; allowed: whole numbers from"
          f" {least} to {MAX_COUNTS[name]}"
        )
    if self.samples and self.num_best > 1:
      raise UserError("--samples and --num_best exclude each other")
    if self.labels is not None and self.constrain is False:
      raise UserError("--labels and --constrain=off contradict each other")


# More would only fill memory.
MAX_COUNTS = {"num_best": 64, "samples": 256, "max_input": 1 << 16}
_FLAGS = {"max_input": "max_input_length"}


@dataclasses.dataclass(frozen=True)
class PredictInput:
  """One question.

  Attributes:
    input: the text, as a record has it, before any prefix.
    rationale: for students that read one.
    id: handed back with the answer.
  """

  input: str
  rationale: str | None = None
  id: str | None = None

  def problem(self) -> str | None:
    """Why a student cannot be asked this; None if it can."""
    read = () if self.rationale is None else (self.rationale,)
    try:
      # A record's checks are those of a question.
      Record("any", self.input, rationales=tuple(map(Rationale, read)))
    except UserError as error:
      return str(error)
    return None


@dataclasses.dataclass(frozen=True)
class Alternative:
  """One of several outputs.

  Attributes:
    score: its log-probability.
    label: the label it names; None where none was asked for.
    rationale: its rationale; None where none was asked for.
  """

  score: float
  label: str | None = None
  rationale: str | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One answer.

  Attributes:
    label: what the student says; None where it was not asked, or on an error.
    label_score: the log-probability of the text that names the label.
    label_scores: probability of each label among those of a closed set.
    votes: share of the samples that name the label.
    rationale: why.
    rationale_score: the log-probability of the text that holds the rationale.
    alternatives: the `num_best` outputs, the best first: those with labels,
      then those of rationales where these are texts of their own.
    truncated: whether the input was longer than the student can read.
    error: why there is no answer; None if there is one.
    id: that of the question.
  """

  label: str | None = None
  label_score: float | None = None
  label_scores: Mapping[str, float] | None = None
  votes: float | None = None
  rationale: str | None = None
  rationale_score: float | None = None
  alternatives: tuple[Alternative, ...] = ()
  truncated: bool = False
  error: str | None = None
  id: str | None = None


def writes_rationale(subtask: SubTask) -> bool:
  """Whether what the student writes for a sub-task holds a rationale."""
  parts = subtask.target_parts(MethodOptions())
  return Part("rationale", is_field=True) in parts


def extract_rationale(
  subtask: SubTask, text: str, options: MethodOptions
) -> str:
  """The rationale in what a student wrote for `subtask`.

  The counterpart of `subtasks.extract_label`: what comes before the label's
  separator, or after the rationale's own.
  """
  parts = subtask.target_parts(options)
  index = parts.index(Part("rationale", is_field=True))
  if index + 1 < len(parts) and not parts[index + 1].is_field:
    # The last one, as for the label: a rationale may hold the word itself.
    before, found, _ = text.rpartition(parts[index + 1].text.strip())
    text = before if found else text
  if index > 0 and not parts[index - 1].is_field:
    text = text.partition(parts[index - 1].text.strip())[2]
  return text.strip()


def read_output(
  subtask: SubTask, text: str, options: MethodOptions
) -> tuple[str | None, str | None]:
  """The label and the rationale in an output; None for what it never has."""
  label = rationale = None
  if subtask.uses_label:
    label = subtasks.extract_label(subtask, text, options)
  if writes_rationale(subtask):
    rationale = extract_rationale(subtask, text, options)
  return label, rationale
