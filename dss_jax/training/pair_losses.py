"""Losses that compare two examples of a record: more than weights of tokens.

Both examples must lie in one packed row, so that micro-batches, hosts and
devices add up as they do for other losses. Paired tasks (`<dataset>_dss_paired`)
are packed so wherever both fit one; `start_or_resume` refuses other data.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dss_jax.base.errors import UserError
from dss_jax.training import weight_schedules
from dss_jax.training.weight_schedules import Weight

Batch = Mapping[str, Any]  # name -> [rows, length] array


@dataclasses.dataclass(frozen=True)
class MutualInformation:
  """The mutual-information loss of Chen et al. 2024, as their code has it.

  "Learning to Maximize Mutual Information for Chain-of-Thought Distillation"
  (arXiv:2403.03348) draws what a rationale's tokens say towards what the
  label's say. With P and Q the probabilities of the tokens of a record's label
  and of its rationale, [tokens, vocab],

      p_v = max_t P_tv,  q_v = max_t Q_tv,  loss = - Σ_v p_v · log softmax(q)_v,

  meaned over records. p is a constant: no gradient flows to the label's side.
  As in the authors' code, q is put through a softmax though it is made of
  probabilities, and p does not sum to 1. One deviation: there the maxima are
  over padding too, here over tokens that are targets.

  All logits of a micro-batch exist at once, a few times over.

  Attributes:
    weight: of this loss, to which the sub-tasks' is added; the authors' beta.
      `{0: 0.0, 1000: 0.1}` changes it over training.
    label: the sub-task whose predictions are learnt from.
    rationale: the sub-task that learns from them.
  """

  weight: Weight = 0.1
  label: str = "label"
  rationale: str = "rationale"

  def __post_init__(self):
    where = "MutualInformation.weight"
    weight_schedules.check(where, self.weight, sys.float_info.max)

  def between(self, subtask_names: Sequence[str]) -> PairLoss:
    """The loss for a run's sub-tasks, in the order of their ids.

    Raises:
      UserError: where the run does not train both.
    """
    for name in (self.label, self.rationale):
      if name not in subtask_names:
        raise UserError(
          f"aux_loss compares the sub-tasks {self.label!r} and"
          f" {self.rationale!r}, but the run's are {list(subtask_names)}: choose"
          " a method that has both, such as dss_paired",
          fields=("Objective.aux_loss", "task_name.method"),
        )
    ids = (
      subtask_names.index(name) + 1 for name in (self.label, self.rationale)
    )
    return PairLoss(weight_schedules.of(self.weight), *ids)


@dataclasses.dataclass(frozen=True)
class PairLoss:
  """A `MutualInformation` whose sub-tasks are known by their ids, from 1."""

  weight: Any  # a number or a schedule
  label: int
  rationale: int

  def pairs(self, batch: Batch) -> jax.Array:
    """[rows, length] bool: the first token of each record with both examples.

    A record that a row holds twice counts once.
    """
    record, subtask = batch["decoder_record_ids"], batch["decoder_subtask_ids"]
    same = _same_record(record)

    def has(subtask_id):
      return jnp.any(same & (subtask == subtask_id)[:, None, :], axis=-1)

    return (
      has(self.label)
      & has(self.rationale)
      & (_first(same) == jnp.arange(record.shape[1]))
    )

  def __call__(
    self, logits: jax.Array, batch: Batch, weights: jax.Array
  ) -> jax.Array:
    """The weighted sum of the losses of pairs, a float32 scalar.

    Args:
      logits: [rows, length, vocab] float32.
      batch: the features they belong to.
      weights: [rows, length] float32, of each pair at its first token, else 0.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    length = logits.shape[1]
    first = _first(_same_record(batch["decoder_record_ids"]))

    def largest(subtask_id):
      # A pair's place is that of its first token; the rest goes beyond the end.
      place = jnp.where(
        batch["decoder_subtask_ids"] == subtask_id, first, length
      )
      pool = functools.partial(_segment_max, num_segments=length + 1)
      return jax.vmap(pool)(probabilities, place)[:, :length]

    # [rows, length, vocab], at the place of each pair.
    label = jax.lax.stop_gradient(largest(self.label))
    rationale = jax.nn.log_softmax(largest(self.rationale), axis=-1)
    return -jnp.sum(weights[..., None] * label * rationale)


def _same_record(record: jax.Array) -> jax.Array:
  """[rows, length, length] bool: whether two tokens are of the same record."""
  return (record[:, :, None] == record[:, None, :]) & (record > 0)[:, :, None]


def _first(same: jax.Array) -> jax.Array:
  """[rows, length] int32: the first token of each token's record."""
  return jnp.argmax(same, axis=-1)


def _segment_max(
  values: jax.Array, segments: jax.Array, num_segments: int
) -> jax.Array:
  """[num_segments, size], the largest of each segment; 0 for one without any.

  JAX does not differentiate `segment_max`; here the gradient goes to the
  largest, in equal parts to several.

  Args:
    values: [length, size] float32.
    segments: [length] int32.
    num_segments: how many there are.
  """
  top = jax.ops.segment_max(
    jax.lax.stop_gradient(values), segments, num_segments
  )
  is_top = (values == top[segments]).astype(values.dtype)
  shares = (
    is_top / jax.ops.segment_sum(is_top, segments, num_segments)[segments]
  )
  return jax.ops.segment_sum(values * shares, segments, num_segments)
