"""The objective: per-token losses and per-token weights, nothing else.

The loss of a step is a plain weighted sum over the global batch,

    L = Σ_k w_k · Σ_{t∈k} weight_t · (nll_t + z_t) / max(n_k, 1),

with k a sub-task (label, rationale, ...), w_k its weight and n_k what it is
divided by. Every choice is settled in the token weights *before* the batch is
cut into micro-batches, so micro-batches, hosts and devices simply add up.

With two sub-tasks, w = (alpha, 1 - alpha) and n_k = the sub-task's tokens, L is
the official "distilling step-by-step" loss: each sub-task's mean cross-entropy
over its own tokens, weighted by alpha and 1 - alpha (Hsieh et al. 2023,
arXiv:2305.02301, and the authors' code, where alpha = 0.5). Weights may change
over training, each linearly between steps that are given.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.training import weight_schedules
from dss_jax.training.optimizers.schedules import PiecewiseLinear
from dss_jax.training.pair_losses import MutualInformation
from dss_jax.training.token_losses import TokenLosses
from dss_jax.training.weight_schedules import Weight

# What the summed loss of a sub-task is divided by. The names in capitals are
# T5X's `SpecialLossNormalizingFactor`s.
NORMALIZERS = (
  "subtask_tokens",
  "all_tokens",
  "examples",
  "NUM_REAL_TARGET_TOKENS",
  "NUM_TOTAL_TARGET_TOKENS",
  "AVERAGE_PER_SEQUENCE",
)

Batch = Mapping[str, Any]  # name -> [batch, length] array


# ------------------------------------------------- features of packed batches


def loss_mask(batch: Batch) -> jax.Array:
  """[batch, length] float32 loss weight of each target token, 0 on padding."""
  if "decoder_loss_weights" in batch:
    return batch["decoder_loss_weights"].astype(jnp.float32)
  return (batch["decoder_target_tokens"] > 0).astype(jnp.float32)


def segment_ids(batch: Batch) -> jax.Array:
  """[batch, length] int32 packed-segment ids; 0 outside any example.

  Without packing a row with any target is one segment, an empty row is none.
  """
  if "decoder_segment_ids" in batch:
    return batch["decoder_segment_ids"]
  mask = loss_mask(batch) > 0
  has_target = jnp.any(mask, axis=-1, keepdims=True)
  return jnp.broadcast_to(has_target, mask.shape).astype(jnp.int32)


def subtask_ids(batch: Batch) -> jax.Array:
  """[batch, length] int32 sub-task of each target token: 1-based, 0 padding.

  A batch without `decoder_subtask_ids` (from plain SeqIO, say) is all one
  sub-task.
  """
  if "decoder_subtask_ids" in batch:
    return batch["decoder_subtask_ids"]
  return (segment_ids(batch) > 0).astype(jnp.int32)


def example_starts(batch: Batch) -> jax.Array:
  """[batch, length] bool: the first token of each packed example."""
  segments = segment_ids(batch)
  before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
  return (segments != before) & (segments > 0)


def _segment_sums(batch: Batch, mask: jax.Array) -> jax.Array:
  """[batch, length] float32: `mask` summed over the segment of each token.

  A compare-and-reduce over pairs of positions: XLA fuses it, so the pairs are
  never stored, and the sums are exact for 0/1 masks.
  """
  segments = segment_ids(batch)
  same = segments[:, :, None] == segments[:, None, :]
  return jnp.sum(jnp.where(same, mask[:, None, :], 0.0), axis=-1)


# -------------------------------------------------------- weights of tokens


@dataclasses.dataclass(frozen=True)
class Weighting:
  """Turns a global batch into per-token weights: loss = Σ weights · nll.

  Attributes:
    subtask_weights: w_k of each sub-task, in the order of the sub-task ids
      (id 1 first); numbers or schedules.
    normalizer: n_k, what sub-task k's weighted sum is divided by.
      `subtask_tokens` (default): its own target tokens in the global batch.
      `all_tokens`, T5X's NUM_REAL_TARGET_TOKENS: the target tokens of all
      sub-tasks, so long rationales outweigh labels by their length.
      `examples`: its examples, so L holds mean sequence log-likelihoods.
      NUM_TOTAL_TARGET_TOKENS: all positions of the batch, padding included.
      AVERAGE_PER_SEQUENCE: each example's mean over its own tokens, averaged
      over all examples. A number divides by that constant, T5X's
      `LOSS_NORMALIZING_FACTOR`; None by nothing. With all w_k = 1 the names in
      capitals, numbers and None are exactly T5X's losses.

  Tokens and examples are counted by `decoder_loss_weights` times
  `decoder_example_weights`: with `subtask_tokens`, L is a weighted mean.

  Raises:
    UserError: for an unknown normaliser or unusable weights.
  """

  subtask_weights: tuple[float | PiecewiseLinear, ...] = (1.0,)
  normalizer: str | float | None = "subtask_tokens"

  def __post_init__(self):
    self._check_weights()
    normalizer = self.normalizer
    if isinstance(normalizer, str):
      known = normalizer in NORMALIZERS
    else:
      known = normalizer is None or (
        isinstance(normalizer, int | float)
        and math.isfinite(normalizer)
        and normalizer > 0
      )
    if not known:
      raise UserError(
        f"normalizer is {normalizer!r}; it must be one of"
        f" {', '.join(NORMALIZERS)}, a number above 0, or None",
        fields="Objective.normalizer",
      )

  def _check_weights(self):
    weights = self.subtask_weights
    values = [
      value
      for w in weights
      for value in (w.values if isinstance(w, PiecewiseLinear) else (w,))
    ]
    fields = ("Objective.alpha", "Objective.subtask_weights")
    if not values or not all(math.isfinite(w) and w >= 0 for w in values):
      raise UserError(
        f"subtask_weights is {weights}; it must hold a finite number of 0 or"
        " more for each sub-task",
        fields=fields,
      )
    # Weights that are linear between these steps are all zero at one of them,
    # or never.
    schedules = [w for w in weights if isinstance(w, PiecewiseLinear)]
    for step in {0.0}.union(*(schedule.steps for schedule in schedules)):
      if not any(
        np.interp(step, w.steps, w.values)
        if isinstance(w, PiecewiseLinear)
        else w
        for w in weights
      ):
        raise UserError(
          f"subtask_weights is {weights}: with weights of zero nothing would be"
          f" trained at step {int(step)}",
          fields=fields,
        )

  @property
  def num_subtasks(self) -> int:
    """Number of sub-tasks, the length of every per-sub-task metric."""
    return len(self.subtask_weights)

  def __call__(
    self, batch: Batch, subtask_weights: Sequence[Any] | None = None
  ) -> jax.Array:
    """Returns the [batch, length] float32 token weights of a *global* batch.

    A sub-task id above `num_subtasks` means that the batch belongs to another
    mixture; its weight is NaN, so that the mistake cannot pass for training.

    Args:
      batch: its features.
      subtask_weights: w_k, scalars, in place of the field's; so a compiled
        program can take them as arguments. Schedules need it.
    """
    ids = subtask_ids(batch)
    mask = loss_mask(batch)
    example_weights = batch.get("decoder_example_weights")
    if example_weights is None:
      example_weights = jnp.ones_like(mask)
    tokens = mask * example_weights
    if self.normalizer == "AVERAGE_PER_SEQUENCE":
      tokens = tokens / jnp.maximum(_segment_sums(batch, mask), 1e-20)
    if subtask_weights is None:
      subtask_weights = self.subtask_weights
    divisors = self._divisors(batch, ids, tokens, example_weights)
    scales = [w / n for w, n in zip(subtask_weights, divisors, strict=True)]
    weights = jnp.where((ids < 0) | (ids > self.num_subtasks), jnp.nan, 0.0)
    for k, scale in enumerate(scales, start=1):
      weights = jnp.where(ids == k, scale * tokens, weights)
    return weights

  def _divisors(
    self,
    batch: Batch,
    ids: jax.Array,
    tokens: jax.Array,
    example_weights: jax.Array,
  ) -> list[jax.Array | float]:
    """n_k of each sub-task, scalars float32.

    Args:
      batch: the features of the global batch.
      ids: [batch, length] int32, see `subtask_ids`.
      tokens: [batch, length] float32, what each target token counts for.
      example_weights: [batch, length] float32, the weight of its example.
    """

    def total(values, k):
      return jnp.sum(jnp.where(ids == k, values, 0.0))

    ks = range(1, self.num_subtasks + 1)
    if self.normalizer == "subtask_tokens":
      return [jnp.maximum(total(tokens, k), 1.0) for k in ks]
    if self.normalizer == "examples":
      starts = jnp.where(example_starts(batch), example_weights, 0.0)
      return [jnp.maximum(total(starts, k), 1.0) for k in ks]
    if self.normalizer in (
      "all_tokens",
      "NUM_REAL_TARGET_TOKENS",
      # `tokens` sums to an example's weight here, so this counts examples.
      "AVERAGE_PER_SEQUENCE",
    ):
      return [jnp.maximum(jnp.sum(tokens), 1.0)] * len(ks)
    if self.normalizer == "NUM_TOTAL_TARGET_TOKENS":
      return [float(tokens.size)] * len(ks)
    return [float(self.normalizer or 1.0)] * len(ks)


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised, before the sub-tasks of a run are known.

  Attributes:
    alpha: weight of the `label` sub-task against 1 - alpha for the other one
      (the official code's `--alpha`, 0.5), which several others share equally.
      A single sub-task (standard fine-tuning) always has weight 1.
      `{0: 0.9, 1000: 0.5}` changes it linearly from step 0 to step 1,000, and
      then keeps it.
    subtask_weights: weight of each sub-task by name; replaces `alpha`. Each is
      a number, or one for some steps, as in `alpha`.
    normalizer: see `Weighting`.
    z_loss: coefficient of the squared log-normaliser; T5X uses 1e-4.
    label_smoothing: probability moved away from the target token, in [0, 1).
    aux_loss: added to this loss, of pairs of a record's examples; None adds
      nothing.

  Raises:
    UserError: for a value outside its range.
  """

  alpha: Weight = 0.5
  subtask_weights: Mapping[str, Weight] | None = None
  normalizer: str | float | None = "subtask_tokens"
  z_loss: float = 0.0
  label_smoothing: float = 0.0
  aux_loss: MutualInformation | None = None

  def __post_init__(self):
    weight_schedules.check("Objective.alpha", self.alpha, 1)
    for weight in (self.subtask_weights or {}).values():
      weight_schedules.check(
        "Objective.subtask_weights", weight, sys.float_info.max
      )
    checks.in_range("Objective.z_loss", self.z_loss, 0, sys.float_info.max)
    checks.in_range("Objective.label_smoothing", self.label_smoothing, 0)
    if self.label_smoothing >= 1:
      raise UserError(
        f"label_smoothing is {self.label_smoothing!r}; it must be 0 or more, and"
        " less than 1",
        fields="Objective.label_smoothing",
      )

  def weighting(self, subtask_names: Sequence[str]) -> Weighting:
    """The weighting for a run's sub-tasks, in the order of their ids.

    Args:
      subtask_names: such as `("label", "rationale")`.

    Raises:
      UserError: where names and weights do not fit together.
    """
    names = tuple(subtask_names)
    if self.subtask_weights is not None:
      by_name = dict(self.subtask_weights)
      if set(by_name) != set(names):
        raise UserError(
          f"subtask_weights has weights for {sorted(by_name)}, but the run's"
          f" sub-tasks are {sorted(names)}",
          fields="Objective.subtask_weights",
        )
      weights = tuple(weight_schedules.of(by_name[name]) for name in names)
    elif len(names) == 1:
      weights = (1.0,)
    elif len(names) == 2 or "label" in names:
      first = "label" if "label" in names else names[0]
      alpha, others = self.alpha, len(names) - 1
      if isinstance(alpha, Mapping):
        rest: Weight = {
          step: (1.0 - value) / others for step, value in alpha.items()
        }
      else:
        rest = (1.0 - alpha) / others
      weights = tuple(
        weight_schedules.of(alpha if name == first else rest) for name in names
      )
    else:
      raise UserError(
        f"alpha weighs a label against others, and the run has {len(names)}"
        f" sub-tasks: {names}; set subtask_weights to a weight for each of them",
        fields="Objective.subtask_weights",
      )
    return Weighting(weights, self.normalizer)


# ------------------------------------------------------------------- metrics


def subtask_sums(
  tokens: TokenLosses, batch: Batch, num_subtasks: int
) -> dict[str, jax.Array]:
  """Per-sub-task sums that add up over micro-batches, steps and hosts.

  Args:
    tokens: the losses of each target.
    batch: the features they belong to.
    num_subtasks: how many sub-tasks the run has.

  Returns:
    `nll` [num_subtasks] float32, and `tokens`, `correct`, `examples`
    [num_subtasks] int32; `nll / tokens` is a sub-task's mean loss whatever the
    weighting, `correct / tokens` its teacher-forced token accuracy. Also
    `encoder_tokens` and `decoder_tokens`, int32: the non-padding tokens.
  """
  ids = subtask_ids(batch)
  counted = loss_mask(batch) > 0
  of_subtask = ids == jnp.arange(1, num_subtasks + 1)[:, None, None]

  def count(mask):
    return jnp.sum(of_subtask & mask, axis=(1, 2), dtype=jnp.int32)

  sums = {
    "nll": jnp.sum(
      jnp.where(of_subtask & counted, tokens.nll, 0.0), axis=(1, 2)
    ),
    "tokens": count(counted),
    "correct": count(counted & tokens.correct),
    "examples": count(example_starts(batch)),
  }
  for side, feature in (("encoder", "input"), ("decoder", "target")):
    # Without packing nothing but the ids tells padding from tokens.
    present = batch.get(
      f"{side}_segment_ids", batch[f"{side}_{feature}_tokens"]
    )
    sums[f"{side}_tokens"] = jnp.sum(present > 0, dtype=jnp.int32)
  return sums
