"""Compares a kernel with plain attention on the device at hand.

Kernels of vendors have returned zeros for the gradient of the bias without a
word. So values and all gradients of one are compared, once a process and kind
of attention, before it trains anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# The greatest norm of a difference, relative to the reference's. Rounding to
# bfloat16 makes some 0.005; what is missing or misplaced makes 0.1 to 1.
TOLERANCE = 0.03
_NAMES = ("values", *(f"{x} gradient" for x in ("query", "key", "value")))
_HEADS = 2


def disproof(
  attend: Callable[..., Array],
  *,
  head_dim: int,
  query_length: int,
  key_length: int,
  position: bool,
  causal: bool,
  dtype: str = "bfloat16",
) -> str | None:
  """Why a kernel is wrong; None if it agrees with plain attention.

  Compiles and runs on the default device in a thread of its own: so it can be
  called while another function is traced, whatever mesh is set.

  Args:
    attend: takes query, key, value, position, query_segments, key_segments.
    head_dim: as in the model.
    query_length: as in the model, tokens.
    key_length: as in the model, tokens.
    position: whether there is a bias of relative positions.
    causal: whether later keys are hidden.
    dtype: the kernel's.

  Returns:
    What differs and by how much, in one line.
  """
  results = []

  def compare():
    try:
      inputs = _inputs(head_dim, query_length, key_length, position, dtype)
      expected = _values_and_gradients(
        lambda *x: plain_attention(*x, causal=causal), inputs, "float32"
      )
      actual = _values_and_gradients(attend, inputs, dtype)
      results.append(_difference(actual, expected))
    except Exception as error:
      results.append(error)

  thread = threading.Thread(target=compare)
  thread.start()
  thread.join()
  if isinstance(results[0], Exception):
    raise results[0]
  return results[0]


def plain_attention(
  query, key, value, position, query_segments, key_segments, *, causal
) -> Array:
  """What a kernel has to compute, in the inputs' dtype; see the kernels."""
  same = query_segments[:, None, :, None] == key_segments[:, None, None, :]
  if causal:
    same &= np.tri(query.shape[2], key.shape[2], dtype=bool)
  logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, precision="highest")
  if position is not None:
    logits += position
  weights = jax.nn.softmax(jnp.where(same, logits, -1e10))
  return jnp.einsum("bhqk,bhkd->bhqd", weights, value, precision="highest")


def packed_segments(rng: np.random.Generator, *lengths: int) -> list:
  """Segment ids of three rows of each length, which have the same segments.

  Returns:
    int32 [3, length] for each; a row's last tenth or so is padding.
  """
  rows = [[] for _ in lengths]
  for _ in range(3):
    num_segments = rng.integers(2, 6)
    for row, length in zip(rows, lengths, strict=True):
      end = length - length // 10
      cuts = rng.choice(np.arange(1, end), num_segments - 1, replace=False)
      ids = np.ones(length, np.int32)
      for cut in cuts:
        ids[cut:] += 1
      ids[end:] = 0
      row.append(ids)
  return [np.stack(row) for row in rows]


def _inputs(head_dim, query_length, key_length, position, dtype) -> dict:
  rng = np.random.default_rng(0)

  def draw(*shape, scale=1.0):
    return jnp.asarray(scale * rng.normal(size=shape), dtype)

  if query_length == key_length:
    (query_segments,) = packed_segments(rng, query_length)
    key_segments = query_segments
  else:
    query_segments, key_segments = packed_segments(
      rng, query_length, key_length
    )
  q_shape = (3, _HEADS, query_length, head_dim)
  k_shape = (3, _HEADS, key_length, head_dim)
  seen = (query_segments > 0)[:, None, :, None]
  return {
    # Scores of a standard deviation of 2: neither flat nor of one key.
    "query": draw(*q_shape, scale=2 * head_dim**-0.5),
    "key": draw(*k_shape),
    "value": draw(*k_shape),
    "position": draw(1, *q_shape[1:3], key_length) if position else None,
    "segments": (query_segments, key_segments),
    # What padding gets does not matter.
    "cotangent": draw(*q_shape) * seen.astype(dtype),
  }


def _values_and_gradients(attend, inputs: dict, dtype: str) -> list[np.ndarray]:
  names = ("query", "key", "value", "position")
  arrays, cotangent = jax.tree.map(
    lambda x: x.astype(dtype),
    ([inputs[name] for name in names], inputs["cotangent"]),
  )

  @jax.jit
  def run(arrays, cotangent, segments):
    values, vjp = jax.vjp(lambda *x: attend(*x, *segments), *arrays)
    return values, vjp(cotangent)

  values, gradients = run(arrays, cotangent, inputs["segments"])
  found = [values, *(x for x in gradients if x is not None)]
  found = [np.asarray(x, np.float64) for x in found]
  if not np.isfinite(found[0]).all():
    # This includes padding: a weight of zero does not undo a NaN.
    raise ValueError("it returns values that are not finite")
  found[0] *= np.asarray(inputs["segments"][0] > 0)[:, None, :, None]
  return found


def _difference(actual, expected) -> str | None:
  names = (*_NAMES, "position gradient")
  for name, x, reference in zip(names, actual, expected, strict=False):
    error = np.linalg.norm(x - reference) / np.linalg.norm(reference)
    if not error <= TOLERANCE:
      return (
        f"its {name} is {100 * error:.1f} % off plain attention's on this"
        " device"
      )
  return None
