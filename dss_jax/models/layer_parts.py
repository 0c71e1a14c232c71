"""The parts of T5's layers in Linen: projections, attention, norms, biases.

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

from dss_jax.models import attention
from dss_jax.models import config as config_lib
from dss_jax.models.kernels import attention_kernels
from dss_jax.models.partitioning import row_sums
from dss_jax.models.partitioning.constraints import constrain, fetch

Array = jax.Array
Initializer = Callable[..., Array]

# Added to the logits of masked positions. Finite, so that a query that may see
# nothing (padding) gets a uniform distribution instead of NaN. As in T5X.
MASKED = -1e10

_fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_fan_in_truncated = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)

_ACTIVATION_FNS: dict[str, Callable[[Array], Array]] = {
  "linear": lambda x: x,
  "relu": nn.relu,
  "gelu": nn.gelu,  # the tanh approximation, as T5X and Hugging Face
  "silu": nn.silu,
  "swish": nn.silu,
}


def parameter(
  module: nn.Module,
  name: str,
  init: Initializer,
  shape: tuple[int, ...],
  axes: tuple[str, ...],
) -> Array:
  """A float32 parameter with named axes."""
  boxed_init: Any = nn.with_logical_partitioning(init, axes)
  value = module.param(name, boxed_init, shape, jnp.float32)
  return fetch(value, *axes)


# Parameters next to a `kernel` [in, out] that hold a low-rank addition to it:
# [in, rank] and [rank, out]. None are made here; see `dss_jax/models/lora.py`.
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
    kernel = parameter(self, "kernel", self.init, shape, self.axes)
    output_dtype = self.output_dtype or self.dtype
    outputs = _project(inputs, kernel, self.dtype, output_dtype)
    if not self.has_variable("params", LOW_RANK[0]):
      return outputs
    # Two thin products instead of one with the sum of the kernels: neither the
    # sum nor a gradient of the kernel's size is ever formed.
    a, b = (self.get_variable("params", name) for name in LOW_RANK)
    a, b = fetch(a, self.axes[0], None), fetch(b, None, self.axes[1])
    narrow = _project(inputs, a, self.dtype, self.dtype)
    return outputs + _project(narrow, b, self.dtype, output_dtype)


def _project(
  inputs: Array, kernel: Array, dtype: str, output_dtype: str
) -> Array:
  """[..., in] x [in, out] -> [..., out]."""
  # The inputs become a matrix of all positions. If the product contracted two
  # dimensions, slow transpositions would precede the kernel's gradient on CPU.
  rows = inputs.astype(dtype).reshape(-1, inputs.shape[-1])
  kernel = kernel.astype(dtype)
  outputs: Array
  if output_dtype == dtype:
    outputs = jnp.dot(rows, kernel)
  else:
    outputs = _wide_dot(rows, kernel, output_dtype)
  return outputs.reshape(*inputs.shape[:-1], kernel.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _wide_dot(inputs: Array, kernel: Array, output_dtype: str) -> Array:
  """[n, in] x [in, out] -> [n, out] in a wider type: float32 from bfloat16.

  Left to JAX, its gradients would be wide products, too, many times slower on
  accelerators. These are products of the inputs' type.
  """
  return jnp.dot(inputs, kernel, preferred_element_type=output_dtype)


def _wide_dot_fwd(inputs, kernel, output_dtype):
  return _wide_dot(inputs, kernel, output_dtype), (inputs, kernel)


def _wide_dot_bwd(output_dtype, residuals, cotangent):
  del output_dtype
  inputs, kernel = residuals
  cotangent = cotangent.astype(inputs.dtype)
  return jnp.dot(cotangent, kernel.T), jnp.dot(inputs.T, cotangent)


_wide_dot.defvjp(_wide_dot_fwd, _wide_dot_bwd)


class Embed(nn.Module):
  """The token embedding table, which T5 1.0 also uses as output projection."""

  config: config_lib.T5Config

  def setup(self):
    cfg = self.config
    self.embedding = parameter(
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
    rows = row_sums.take(self.embedding, tokens)
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
    shape = (x.shape[-1],)
    scale = parameter(self, "scale", nn.initializers.ones, shape, ("embed",))

    # The backward pass makes the normed values again from what came in.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def norm(x, scale):
      x = x.astype(jnp.float32)
      mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
      normed = x * jax.lax.rsqrt(mean_square + self.epsilon)
      return normed.astype(self.dtype) * scale.astype(self.dtype)

    return norm(x, scale)


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
    keep = None
    rate = cfg.dropout_rate if cfg.attention_dropout else 0.0
    if rate > 0.0 and not self.deterministic:
      value, keep = self._drop(value, query.shape[2])
    # [batch, heads, q, head_dim]
    if isinstance(bias, attention_kernels.SegmentBias):
      assert keep is None
      x = attention_kernels.attention(query, key, value, bias)
    else:
      x = attention.dot_product_attention(
        query,
        key,
        value,
        bias,
        dtype=cfg.dtype,
        float32_logits=cfg.float32_attention_logits,
        keep=keep,
      )
    # [batch, heads, q, head_dim] -> [batch, q, heads * head_dim]
    x = x.swapaxes(1, 2).reshape(*inputs.shape[:2], cfg.joined_kv_dim)
    # [batch, q, heads * head_dim] -> [batch, q, emb]
    return self.out(x)

  def _drop(self, value: Array, q: int) -> tuple[Array, Array | None]:
    """Drops attention probabilities.

    Returns:
      The values [batch, heads, k, head_dim] to attend to, and factors of the
      probabilities [batch, heads, q, k] or None.
    """
    cfg = self.config
    batch, heads, k, _ = value.shape
    # T5X, too, has one mask for all query positions.
    shared = cfg.dropout_broadcast == "length"
    keep_rate = 1.0 - cfg.dropout_rate
    shape = (batch, heads, 1 if shared else q, k)
    kept = jax.random.bernoulli(self.make_rng("dropout"), keep_rate, shape)
    factors = kept.astype(value.dtype) / keep_rate
    if shared:
      # A key that no query sees need not be weighed out of every probability:
      # it has no value.
      return value * factors.swapaxes(2, 3), None
    return value, factors

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
    # [batch, length, emb] -> [batch, length, mlp]
    hidden = []
    for i in range(len(cfg.mlp_activations)):
      name = "wi" if len(cfg.mlp_activations) == 1 else f"wi_{i}"
      dense = Dense(cfg.mlp_dim, ("embed", "mlp"), cfg.dtype, name=name)
      hidden.append(dense(inputs))

    # The backward pass makes the activations again from what went into them.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def activate(*hidden):
      functions = (_ACTIVATION_FNS[name] for name in cfg.mlp_activations)
      return functools.reduce(
        operator.mul, (fn(x) for fn, x in zip(functions, hidden, strict=True))
      )

    x = activate(*hidden)
    x = Dropout(cfg, self.deterministic)(x)
    x = constrain(x, "batch", "length", "mlp")
    # [batch, length, mlp] -> [batch, length, emb]
    return Dense(cfg.emb_dim, ("mlp", "embed"), cfg.dtype, name="wo")(x)
