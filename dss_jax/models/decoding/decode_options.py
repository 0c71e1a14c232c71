"""How outputs are found: the strategy and its settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.models.decoding import beam_search, token_by_token
from dss_jax.models.decoding.allowed_outputs import Constraint

STRATEGIES = ("greedy", "beam", "sample")


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
  """How outputs are found.

  Attributes:
    strategy: `greedy`, `beam` or `sample`.
    num_beams: width of the beam.
    convention: of the beam search's length penalty and stopping, `t5x` or
      `huggingface`.
    length_penalty: its exponent; None takes the convention's default.
    early_stopping: see `beam_search.beam_search` (`huggingface` only).
    temperature: of sampling.
    topk: sample among this many most probable tokens; 0 for all.
    topp: sample among the fewest tokens that hold this probability; 0 for all.
    rescale_log_probs: score samples by the distribution drawn from, as T5X,
      instead of by the student's own.
    num_return: sequences of each example: its best beams (no more than
      `num_beams`), or so many samples; 1 where greedy.
    max_length: longest output in tokens; None lets the task decide.
  """

  strategy: str = "greedy"
  num_beams: int = 4
  convention: str = "t5x"
  length_penalty: float | None = None
  early_stopping: bool | str = False
  temperature: float = 1.0
  topk: int = 0
  topp: float = 0.0
  rescale_log_probs: bool = True
  num_return: int = 1
  max_length: int | None = None

  def __post_init__(self):
    """Checks all settings now: their first use may be hours of training away.

    Raises:
      UserError: a value outside of the above.
    """
    checks.one_of("DecodeOptions.strategy", self.strategy, STRATEGIES)
    beam_search.check_settings(
      self.convention, self.length_penalty, self.early_stopping, self.num_beams
    )
    checks.in_range("DecodeOptions.temperature", self.temperature, 0)
    token_by_token.check_sampling(self.topk, self.topp)
    checks.in_range(
      "DecodeOptions.max_length", self.max_length, 1, or_none=True
    )
    most = {"greedy": 1, "beam": self.num_beams}.get(self.strategy)
    if self.num_return < 1 or (most and self.num_return > most):
      allowed = f"from 1 to {most}" if most else "1 or more"
      raise UserError(
        f"num_return is {self.num_return}; it must be {allowed} with strategy"
        f" {self.strategy!r}",
        fields=("DecodeOptions.num_return", "DecodeOptions.strategy"),
      )

  def decode(
    self,
    decode_step_fn: token_by_token.DecodeStepFn,
    cache: Any,
    key: jax.Array,
    *,
    max_decode_length: int,
    constrain: Constraint | None = None,
    compact: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    """The best outputs of each example; `compact`: see `token_by_token.greedy`.

    Returns:
      tokens [batch, num_return, max_decode_length] int32 and scores
      [batch, num_return] float32, the best first. Places without a sequence
      score `beam_search.NO_SEQUENCE` or less.
    """
    if self.strategy == "greedy":
      tokens, scores = token_by_token.greedy(
        decode_step_fn,
        cache,
        max_decode_length=max_decode_length,
        constrain=constrain,
        compact=compact,
      )
      return tokens[:, None], scores[:, None]
    if self.strategy == "beam":
      tokens, scores = beam_search.beam_search(
        decode_step_fn,
        cache,
        max_decode_length=max_decode_length,
        num_beams=self.num_beams,
        convention=self.convention,
        length_penalty=self.length_penalty,
        early_stopping=self.early_stopping,
        constrain=constrain,
      )
      return tokens[:, : self.num_return], scores[:, : self.num_return]
    return token_by_token.temperature_sample(
      decode_step_fn,
      cache,
      key,
      max_decode_length=max_decode_length,
      temperature=self.temperature,
      topk=self.topk,
      topp=self.topp,
      num_decodes=self.num_return,
      rescale_log_probs=self.rescale_log_probs,
      constrain=constrain,
    )
