"""What a student is asked for; imports nothing heavy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dss_jax.base import checks
from dss_jax.base.errors import UserError

if TYPE_CHECKING:
  from dss_jax.models.decoding.decode_options import DecodeOptions

OUTPUTS = ("label", "rationale")

# More would only fill memory.
MAX_NUM_BEST = 64
MAX_SAMPLES = 256
MAX_INPUT_TOKENS = 1 << 16


def _greedy() -> DecodeOptions:
  from dss_jax.models.decoding.decode_options import DecodeOptions

  return DecodeOptions()


@dataclasses.dataclass(frozen=True)
class PredictOptions:
  """What is asked of a student, and how its answers are found.

  Attributes:
    outputs: what to predict: label, rationale, or both. A student that writes
      both in one text is asked once, any other student once for each.
    decode: how outputs are found, unless `num_best` or `samples` asks for
      another search.
    num_best: how many of the best outputs to return, found by beam search.
    samples: sample this many texts that reason before they name a label, and
      take the label that most of them name (self-consistency, arXiv
      2203.11171); 0 for none. `decode` has the temperature.
    labels: predict one of these labels only; by default the labels that the
      student knows.
    constrain: whether only known labels can be predicted; by default they are
      the only ones if the student's dataset has a closed set of labels and
      the student writes nothing else in the same text.
    max_input_length: cut longer inputs to this many tokens, end id included;
      by default as in training.
    seed: seed of sampling.
  """

  outputs: tuple[str, ...] = ("label",)
  decode: DecodeOptions = dataclasses.field(default_factory=_greedy)
  num_best: int = 1
  samples: int = 0
  labels: tuple[str, ...] | None = None
  constrain: bool | None = None
  max_input_length: int | None = None
  seed: int = 0

  def __post_init__(self):
    """Checks what can be checked without a student.

    Raises:
      UserError: for a value that is not allowed.
    """
    if not self.outputs or not set(self.outputs) <= set(OUTPUTS):
      raise UserError(
        f"outputs is {','.join(self.outputs)!r}; it must be label, rationale or"
        " label,rationale",
        fields="PredictOptions.outputs",
      )
    checks.in_range("PredictOptions.num_best", self.num_best, 1, MAX_NUM_BEST)
    checks.in_range("PredictOptions.samples", self.samples, 0, MAX_SAMPLES)
    checks.in_range(
      "PredictOptions.max_input_length",
      self.max_input_length,
      1,
      MAX_INPUT_TOKENS,
      or_none=True,
    )
    if self.samples and self.num_best > 1:
      raise UserError(
        f"samples is {self.samples} and num_best is {self.num_best}; set only"
        " one of them",
        fields=("PredictOptions.samples", "PredictOptions.num_best"),
      )
    if self.labels is not None and self.constrain is False:
      raise UserError(
        "labels are given but constrain is off; set only one of them",
        fields=("PredictOptions.labels", "PredictOptions.constrain"),
      )
