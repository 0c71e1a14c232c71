"""What the logits of a token say of its target: losses, and whether it is right.

This is the definition. Training computes the same in `vocabulary_loss`, with
gradients and without an array of all logits.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class TokenLosses(NamedTuple):
  """What the logits say of each target, [rows, length]; 0 where not counted.

  Attributes:
    nll: float32, cross-entropy in nats.
    z: float32, z-loss.
    correct: bool, whether greedy decoding would choose the target; see
      `is_chosen`.
  """

  nll: jax.Array
  z: jax.Array
  correct: jax.Array


def smoothing_constants(
  vocab_size: int, label_smoothing: float
) -> tuple[float, float, float]:
  """The probability of the target, of any other token, and their entropy.

  The entropy is the smallest cross-entropy a smoothed target allows. T5X
  subtracts it so that a perfect model has loss 0, and so do we.
  """
  confidence = 1.0 - label_smoothing
  others = max(vocab_size - 1, 1)
  low = label_smoothing / others
  entropy = -(
    confidence * math.log(confidence)
    + (vocab_size - 1) * low * math.log(low + 1e-20)
  )
  return confidence, low, entropy


def token_nll(
  logits: jax.typing.ArrayLike,
  targets: jax.typing.ArrayLike,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Per-token cross-entropy and z-loss, in nats, with T5X's conventions.

      nll = -Σ_v q_v · log softmax(logits)_v - H(q)
      z   = z_loss · (log Σ_v exp logits_v)²

  q puts `1 - label_smoothing` on the target and shares the rest equally among
  the other `vocab - 1` ids; H(q) is its entropy (0 without smoothing).

  Args:
    logits: [..., vocab] float; computed on in float32.
    targets: [...] int32, ids below `vocab`.
    z_loss: coefficient of the squared log-normaliser (T5X's `Z_LOSS`, 1e-4).
    label_smoothing: probability moved away from the target, in [0, 1).

  Returns:
    `(nll, z)`, each [...] float32. The loss is the weighted sum of both.
  """
  logits = jnp.asarray(logits, jnp.float32)
  targets = jnp.asarray(targets)
  vocab_size = logits.shape[-1]
  confidence, low, entropy = smoothing_constants(vocab_size, label_smoothing)
  log_z = jax.nn.logsumexp(logits, axis=-1)  # [...]
  # A masked sum instead of a gather: it stays local to each device where the
  # vocabulary is sharded.
  is_target = jnp.arange(vocab_size) == targets[..., None]  # [..., vocab]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  expected = (confidence - low) * target_logit
  if label_smoothing:
    expected += low * jnp.sum(logits, axis=-1)
  return log_z - expected - entropy, z_loss * log_z * log_z


def is_chosen(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Whether greedy decoding would choose the target.

  It chooses the most probable token, and of several with the same logit the one
  with the lowest id. Where a logit is NaN it chooses none.

  Args:
    logits: [..., vocab] float32.
    targets: [...] int32, ids below `vocab`.

  Returns:
    [...] bool.
  """
  # Masked maxima, not argmax: local where the vocabulary is sharded, and one
  # pass over the logits together with the sums of the loss.
  ids = jnp.arange(logits.shape[-1])
  is_target = ids == targets[..., None]  # [..., vocab]
  is_before = ids < targets[..., None]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  highest = jnp.max(logits, axis=-1)
  before = jnp.max(jnp.where(is_before, logits, -jnp.inf), axis=-1)
  # Comparisons with NaN are false, and maxima pass NaN on.
  return (target_logit >= highest) & ((target_logit > before) | (targets == 0))
