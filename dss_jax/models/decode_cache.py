"""What a decoder keeps between steps, sorted by how decoding may move it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeCache:
  """The state of decoding `sequences` = `examples` * n sequences.

  The n sequences of an example (beams or samples) are adjacent.

  Attributes:
    index: scalar int32, tokens fed so far.
    per_sequence: arrays [sequences, ...]: reordered as beams are.
    per_example: arrays [examples, ...]: the same for all of an example's
      sequences, so never repeated nor reordered.
    step_biases: [heads, 2 * max_length - 1] self-attention biases of all
      steps, causal mask included; [layers, heads, ...] where each layer has
      its own.
  """

  index: Array
  per_sequence: Any
  per_example: Any
  step_biases: Array

  @property
  def max_length(self) -> int:
    """How many tokens the cache can take."""
    return (self.step_biases.shape[-1] + 1) // 2

  @property
  def num_sequences(self) -> int:
    """How many sequences are being decoded."""
    return jax.tree.leaves(self.per_sequence)[0].shape[0]

  def limits(self, max_length: int, max_lengths: Array | None) -> Array:
    """The greatest length of each sequence, [sequences] int32.

    Args:
      max_length: of all, in tokens; static.
      max_lengths: optional [sequences] int32, of each.

    Raises:
      ValueError: if the cache was made for fewer tokens.
    """
    if not 1 <= max_length <= self.max_length:
      raise ValueError(
        f"max_decode_length is {max_length}; this cache was made for 1 to"
        f" {self.max_length} tokens"
      )
    limits = jnp.full((self.num_sequences,), max_length, jnp.int32)
    return limits if max_lengths is None else jnp.minimum(limits, max_lengths)

  def repeat(self, n: int) -> DecodeCache:
    """n sequences for each one here: [a, b] -> [a, a, b, b] for n = 2."""
    repeated = jax.tree.map(
      lambda x: jnp.repeat(x, n, axis=0), self.per_sequence
    )
    return dataclasses.replace(self, per_sequence=repeated)

  def take(self, examples: Array) -> DecodeCache:
    """Some examples only, [n] int32; of one sequence each."""
    per_sequence, per_example = jax.tree.map(
      lambda x: jnp.take(x, examples, axis=0),
      (self.per_sequence, self.per_example),
    )
    return dataclasses.replace(
      self, per_sequence=per_sequence, per_example=per_example
    )

  def reorder(self, sequences: Array) -> DecodeCache:
    """Sequence i becomes what sequence `sequences[i]` was.

    Args:
      sequences: [sequences] int32; of the same example as i.
    """
    moved = jax.tree.map(
      lambda x: jnp.take(x, sequences, axis=0), self.per_sequence
    )
    return dataclasses.replace(self, per_sequence=moved)


# (cache, tokens [sequences] int32) -> (logits [sequences, vocab], cache)
DecodeStepFn = Callable[[DecodeCache, Array], tuple[Array, DecodeCache]]
