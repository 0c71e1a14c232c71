"""Layers of T5 in Linen: projections, attention, feed-forward, norms, biases.

Module, parameter and logical axis names are T5X's
(`t5x/examples/t5/layers.py`), so that T5X's parameter trees load by path.
Parameters are float32; a layer computes in `config.dtype`.

Logical axes on parameters: `embed vocab joined_kv mlp heads relpos_buckets`
(and `layers`, added by scanning); on activations: `batch length embed mlp
heads kv vocab`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.models import attention_kernels
from dss_jax.models import config as config_lib
from dss_jax.models.sharding import constrain

Array = jax.Array
Initializer = Callable[..., Array]

# Added to the logits of masked positions. Finite, so that a query that may see
# nothing (padding) gets a uniform distribution instead of NaN. As in T5X.
MASKED = -1e10

_fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_fan_in_truncated = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)
_fan_avg_uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")

_ACTIVATION_FNS: dict[str, Callable[[Array], Array]] = {
  "linear": lambda x: x,
  "relu": nn.relu,
  "gelu": nn.gelu,  # the tanh approximation, as T5X and Hugging Face
  "silu": nn.silu,
  "swish": nn.silu,
}


def _parameter(
  module: nn.Module,
  name: str,
  init: Initializer,
  shape: tuple[int, ...],
  axes: tuple[str, ...],
) -> Array:
  """A float32 parameter with named axes."""
  boxed_init: Any = nn.with_logical_partitioning(init, axes)
  value = module.param(name, boxed_init, shape, jnp.float32)
  # The constraint is its own transpose: the gradient is sharded likewise.
  return constrain(value, *axes)


# Parameters beside a `kernel` [in, out] that hold a low-rank addition to it:
# [in, rank] and [rank, out]. None are made here; see `dss_jax/lora.py`.
LOW_RANK = ("lora_a", "lora_b")


class Dense(nn.Module):
  """A projection of the last axis, without bias: T5 has none anywhere."""

  features: int
  axes: tuple[str, str]
  dtype: str
  init: Initializer = _fan_in_truncated
  output_dtype: str | None = None  # of the product; default `dtype`

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[..., in] -> [..., features]."""
    shape = (inputs.shape[-1], self.features)
    kernel = _parameter(self, "kernel", self.init, shape, self.axes)
    output_dtype = self.output_dtype or self.dtype
    outputs = _project(inputs, kernel, self.dtype, output_dtype)
    if not self.has_variable("params", LOW_RANK[0]):
      return outputs
    # Two thin products instead of one with the sum of the kernels: neither the
    # sum nor a gradient of the kernel's size is ever formed.
    a, b = (self.get_variable("params", name) for name in LOW_RANK)
    a, b = constrain(a, self.axes[0], None), constrain(b, None, self.axes[1])
    narrow = _project(inputs, a, self.dtype, self.dtype)
    return outputs + _project(narrow, b, self.dtype, output_dtype)


def _project(
  inputs: Array, kernel: Array, dtype: str, output_dtype: str
) -> Array:
  """[..., in] x [in, out] -> [..., out]."""
  # As matrices of all positions: contracting over two dimensions, the gradient
  # of the kernel would be preceded by slow transpositions on CPU.
  outputs = _dot(
    inputs.astype(dtype).reshape(-1, inputs.shape[-1]),
    kernel.astype(dtype),
    output_dtype,
  )
  return outputs.reshape(*inputs.shape[:-1], kernel.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dot(inputs: Array, kernel: Array, output_dtype: str) -> Array:
  """[n, in] x [in, out] -> [n, out]; gradients are products of their dtype.

  Left to JAX, a wider product (float32 logits of bfloat16) has a gradient whose
  products are wide too, many times slower on accelerators.
  """
  return jnp.dot(inputs, kernel, preferred_element_type=output_dtype)


def _dot_fwd(inputs, kernel, output_dtype):
  return _dot(inputs, kernel, output_dtype), (inputs, kernel)


def _dot_bwd(output_dtype, residuals, cotangent):
  del output_dtype
  inputs, kernel = residuals
  cotangent = cotangent.astype(inputs.dtype)
  return jnp.dot(cotangent, kernel.T), jnp.dot(inputs.T, cotangent)


_dot.defvjp(_dot_fwd, _dot_bwd)


class Embed(nn.Module):
  """The token embedding table, which T5 1.0 also uses as output projection."""

  config: config_lib.T5Config

  def setup(self):
    cfg = self.config
    self.embedding = _parameter(
      self,
      "embedding",
      nn.initializers.normal(stddev=1.0),
      (cfg.vocab_size, cfg.emb_dim),
      ("vocab", "embed"),
    )

  def __call__(self, tokens: Array) -> Array:
    """[batch, length] int32 -> [batch, length, emb].

    An id outside the vocabulary gives NaN, not the nearest row: better a loud
    failure than a model trained on the wrong table.
    """
    rows = jnp.take(self.embedding, tokens, axis=0, mode="fill")
    return rows.astype(self.config.dtype)

  def attend(self, hidden: Array) -> Array:
    """[batch, length, emb] -> logits [batch, length, vocab] float32."""
    logits = _project(hidden, self.embedding.T, self.config.dtype, "float32")
    # The table has unit-variance rows; bring the logits down to that scale.
    return logits / math.sqrt(hidden.shape[-1])


class LayerNorm(nn.Module):
  """T5's norm: scales to unit root mean square; no mean, no bias."""

  dtype: str
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., emb] -> [..., emb]; the statistics are float32."""
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normed = x * jax.lax.rsqrt(mean_square + self.epsilon)
    shape = (x.shape[-1],)
    scale = _parameter(self, "scale", nn.initializers.ones, shape, ("embed",))
    return normed.astype(self.dtype) * scale.astype(self.dtype)


class Dropout(nn.Module):
  """Dropout on [batch, length, features], one mask a row or one a position."""

  config: config_lib.T5Config
  deterministic: bool
  # T5X draws the mask of the encoder's output, and only that one, in full.
  always_full: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    full = self.always_full or self.config.dropout_broadcast == "full"
    return nn.Dropout(
      rate=self.config.dropout_rate,
      broadcast_dims=() if full else (-2,),
      deterministic=self.deterministic,
    )(x)


def dot_product_attention(
  query: Array,
  key: Array,
  value: Array,
  bias: Array,
  *,
  dtype: str,
  float32_logits: bool = False,
  dropout_fn: Callable[[Array], Array] | None = None,
) -> Array:
  """Softmax attention with an additive bias and no 1/sqrt(head_dim).

  T5 folds that scale into the initializer of the query projection.

  Args:
    query: [batch, heads, q, head_dim].
    key: [batch, heads, k, head_dim].
    value: [batch, heads, k, head_dim].
    bias: broadcastable to [batch, heads, q, k]; holds the mask too.
    dtype: of the probabilities and of the result.
    float32_logits: form the query-key products in float32.
    dropout_fn: applied to the probabilities [batch, heads, q, k].

  Returns:
    [batch, heads, q, head_dim].
  """
  logits = jnp.einsum(
    "bhqd,bhkd->bhqk",
    query,
    key,
    preferred_element_type="float32" if float32_logits else dtype,
  )
  probabilities = jax.nn.softmax(
    logits.astype(jnp.float32) + bias.astype(jnp.float32), axis=-1
  ).astype(dtype)
  if dropout_fn is not None:
    probabilities = dropout_fn(probabilities)
  return jnp.einsum("bhqk,bhkd->bhqd", probabilities, value)


class MultiHeadDotProductAttention(nn.Module):
  """Multi-head attention; keys and values may be computed beforehand."""

  config: config_lib.T5Config
  deterministic: bool

  def setup(self):
    cfg = self.config

    def query_init(*args):
      return _fan_in_normal(*args) / math.sqrt(cfg.head_dim)

    project = functools.partial(
      Dense, cfg.joined_kv_dim, ("embed", "joined_kv"), cfg.dtype
    )
    self.query = project(init=query_init)
    self.key = project(init=_fan_in_normal)
    self.value = project(init=_fan_in_normal)
    self.out = Dense(
      cfg.emb_dim, ("joined_kv", "embed"), cfg.dtype, init=_fan_in_normal
    )

  def _split_heads(self, x: Array) -> Array:
    # [batch, length, heads * head_dim] -> [batch, heads, length, head_dim]
    # Heads first, so that attention is a plain batch of matrix products: with
    # the transposition left to XLA, it takes twice as long on CPU.
    cfg = self.config
    x = x.reshape(*x.shape[:-1], cfg.num_heads, cfg.head_dim)
    return constrain(x.swapaxes(1, 2), "batch", "heads", "length", "kv")

  def keys_and_values(self, inputs: Array) -> tuple[Array, Array]:
    """[batch, k, emb] -> two arrays [batch, heads, k, head_dim]."""
    key = self._split_heads(self.key(inputs))
    value = self._split_heads(self.value(inputs))
    return key, value

  def attend(
    self,
    inputs: Array,
    key: Array,
    value: Array,
    bias: Array | attention_kernels.SegmentBias,
  ) -> Array:
    """Attends from inputs [batch, q, emb] to given keys and values."""
    cfg = self.config
    # [batch, q, emb] -> [batch, heads, q, head_dim]
    query = self._split_heads(self.query(inputs))
    dropping = (
      cfg.dropout_rate > 0.0
      and cfg.attention_dropout
      and not self.deterministic
    )
    if dropping and cfg.dropout_broadcast == "length":
      # The probabilities of a key are dropped for all queries or for none: that
      # is to drop the key's values, which are far fewer than probabilities.
      value = self._drop_probabilities(value.swapaxes(2, 3)).swapaxes(2, 3)
      dropping = False
    # [batch, heads, q, head_dim]
    if isinstance(bias, attention_kernels.SegmentBias):
      assert not dropping
      x = attention_kernels.attention(query, key, value, bias)
    else:
      x = dot_product_attention(
        query,
        key,
        value,
        bias,
        dtype=cfg.dtype,
        float32_logits=cfg.float32_attention_logits,
        dropout_fn=self._drop_probabilities if dropping else None,
      )
    # [batch, heads, q, head_dim] -> [batch, q, heads * head_dim]
    x = x.swapaxes(1, 2).reshape(*inputs.shape[:2], cfg.joined_kv_dim)
    # [batch, q, heads * head_dim] -> [batch, q, emb]
    return self.out(x)

  def _drop_probabilities(self, probabilities: Array) -> Array:
    """Drops from [batch, heads, q, k], by key alone with "length"."""
    cfg = self.config
    batch, heads, q, k = probabilities.shape
    if cfg.dropout_broadcast == "length":
      q = 1  # as T5X: one mask for all query positions
    keep_rate = 1.0 - cfg.dropout_rate
    keep = jax.random.bernoulli(
      self.make_rng("dropout"), keep_rate, (batch, heads, q, k)
    )
    return probabilities * (keep.astype(probabilities.dtype) / keep_rate)

  def __call__(
    self,
    inputs_q: Array,
    inputs_kv: Array,
    bias: Array | attention_kernels.SegmentBias,
  ) -> Array:
    """[batch, q, emb], [batch, k, emb] -> [batch, q, emb]."""
    key, value = self.keys_and_values(inputs_kv)
    return self.attend(inputs_q, key, value, bias)


class MlpBlock(nn.Module):
  """The feed-forward layer, gated where there are several activations."""

  config: config_lib.T5Config
  deterministic: bool

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[batch, length, emb] -> [batch, length, emb]."""
    cfg = self.config
    activations = []
    for i, activation in enumerate(cfg.mlp_activations):
      name = "wi" if len(cfg.mlp_activations) == 1 else f"wi_{i}"
      # [batch, length, emb] -> [batch, length, mlp]
      x = Dense(cfg.mlp_dim, ("embed", "mlp"), cfg.dtype, name=name)(inputs)
      activations.append(_ACTIVATION_FNS[activation](x))
    x = functools.reduce(operator.mul, activations)
    x = Dropout(cfg, self.deterministic)(x)
    x = constrain(x, "batch", "length", "mlp")
    # [batch, length, mlp] -> [batch, length, emb]
    return Dense(cfg.emb_dim, ("mlp", "embed"), cfg.dtype, name="wo")(x)


def relative_position_buckets(
  relative_position: np.ndarray, *, bidirectional: bool
) -> np.ndarray:
  """Buckets of relative positions (key position - query position, tokens).

  Near distances have a bucket each; farther ones share buckets whose width
  grows with the logarithm of the distance, up to MAX_RELPOS_DISTANCE. With
  `bidirectional`, half of the buckets is for keys after the query; else those
  (masked anyway) fall into bucket 0.

  Source: Raffel et al. 2020, section 2.1, as published in Mesh TensorFlow.

  Args:
    relative_position: int array.
    bidirectional: whether keys after the query are seen.

  Returns:
    int32 array of the same shape, in [0, NUM_RELPOS_BUCKETS).
  """
  num_buckets = config_lib.NUM_RELPOS_BUCKETS
  offset = np.zeros_like(relative_position)
  distance = -relative_position
  if bidirectional:
    num_buckets //= 2
    offset = np.where(distance < 0, num_buckets, 0)
    distance = np.abs(distance)
  else:
    distance = np.maximum(distance, 0)
  num_exact = num_buckets // 2
  # The epsilon keeps distances on a bucket's border (16, 32, 64) in the upper
  # bucket in spite of rounding; it also spares a warning at distance 0.
  ratio = distance.astype(np.float32) / num_exact + np.finfo(np.float32).eps
  log_ratio = np.log(ratio) / np.log(config_lib.MAX_RELPOS_DISTANCE / num_exact)
  far = num_exact + (log_ratio * (num_buckets - num_exact)).astype(np.int32)
  far = np.minimum(far, num_buckets - 1)
  buckets = offset + np.where(distance < num_exact, distance, far)
  return buckets.astype(np.int32)


class RelativePositionBiases(nn.Module):
  """A learned bias per head and relative position, of a stack or a layer."""

  config: config_lib.T5Config
  bidirectional: bool

  def setup(self):
    self.rel_embedding = _parameter(
      self,
      "rel_embedding",
      _fan_avg_uniform,
      (self.config.num_heads, config_lib.NUM_RELPOS_BUCKETS),
      ("heads", "relpos_buckets"),
    )

  def __call__(self, relative_position: np.ndarray) -> Array:
    """int [...] -> bias [heads, ...] in the config's dtype.

    The positions are NumPy: they depend on lengths only, so the buckets are a
    constant of the compiled program. In a packed row the distance within the
    row is the distance within the segment wherever it is not masked.
    """
    return self.of_buckets(
      relative_position_buckets(
        relative_position, bidirectional=self.bidirectional
      )
    )

  def of_buckets(self, buckets: Array | np.ndarray) -> Array:
    """As above, for the positions' buckets."""
    table = self.rel_embedding
    # A product with one-hot columns instead of a gather: the gradient is then a
    # product too, and not a scatter of a million numbers into 32 buckets, slow
    # on accelerators and summed in no fixed order. Exact, if not rounded first.
    one_hot = jax.nn.one_hot(buckets, table.shape[1], axis=0, dtype=table.dtype)
    bias = jnp.tensordot(table, one_hot, 1, precision="highest")
    return bias.astype(self.config.dtype)
