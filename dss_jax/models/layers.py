"""A layer of T5's encoder and of its decoder, alone, rematerialised, scanned.

`layer_parts` has what they are made of, `network` makes stacks of them.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from dss_jax.models import (
  attention_bias,
  layer_parts,
  layer_stacking,
  relative_positions,
)
from dss_jax.models import config as config_lib
from dss_jax.models.kernels import attention_kernels

Array = jax.Array
Bias = attention_bias.Bias


class _Layer(nn.Module):
  """What layers of encoder and decoder have in common.

  Attributes:
    config: the sizes.
    deterministic: whether nothing is dropped.
  """

  config: config_lib.T5Config
  deterministic: bool

  def set_up(self, *, bidirectional: bool) -> None:
    """Makes the modules that both have, for the `setup` of each."""
    cfg = self.config
    if cfg.relpos_bias_per_layer:
      self.relpos_bias = relative_positions.RelativePositionBiases(
        cfg, bidirectional=bidirectional
      )
    self.pre_mlp_layer_norm = layer_parts.LayerNorm(cfg.dtype)
    self.mlp = layer_parts.MlpBlock(cfg, self.deterministic)
    self.dropout = layer_parts.Dropout(cfg, self.deterministic)

  def with_positions(self, bias: Bias, buckets: Array | None) -> Bias:
    """Adds the layer's own position bias, where it has one.

    Args:
      bias: [batch, 1 or heads, length, length], or a kernel's.
      buckets: [length, length] int32 of relative positions; None without.
    """
    if buckets is None:
      return bias
    return attention_kernels.add_position(
      bias, self.relpos_bias.of_buckets(buckets)
    )

  def feed_forward(self, x: Array) -> Array:
    """[batch, length, emb] -> [batch, length, emb], normed and added."""
    x = layer_parts.constrain(x, "batch", "length", "embed")
    x = x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))
    return layer_parts.constrain(x, "batch", "length", "embed")


class EncoderLayer(_Layer):
  """Self-attention and feed-forward, each normed before and added after."""

  def setup(self):
    self.set_up(bidirectional=True)
    self.pre_attention_layer_norm = layer_parts.LayerNorm(self.config.dtype)
    self.attention = layer_parts.MultiHeadDotProductAttention(
      self.config, self.deterministic
    )

  def __call__(
    self, x: Array, bias: Bias, buckets: Array | None = None
  ) -> Array:
    """[batch, length, emb] -> [batch, length, emb].

    `buckets` [length, length] are for a layer with a position bias of its own.
    """
    bias = self.with_positions(bias, buckets)
    x = layer_parts.constrain(x, "batch", "length", "embed")
    y = self.pre_attention_layer_norm(x)
    x = x + self.dropout(self.attention(y, y, bias))
    return self.feed_forward(x)


class DecoderLayer(_Layer):
  """Causal self-attention, attention to the encoder, feed-forward."""

  def setup(self):
    cfg = self.config
    self.set_up(bidirectional=False)
    self.pre_self_attention_layer_norm = layer_parts.LayerNorm(cfg.dtype)
    self.self_attention = layer_parts.MultiHeadDotProductAttention(
      cfg, self.deterministic
    )
    self.pre_cross_attention_layer_norm = layer_parts.LayerNorm(cfg.dtype)
    self.encoder_decoder_attention = layer_parts.MultiHeadDotProductAttention(
      cfg, self.deterministic
    )

  def __call__(
    self,
    x: Array,
    encoded: Array,
    self_bias: Bias,
    cross_bias: Bias,
    buckets: Array | None = None,
  ) -> Array:
    """[batch, length, emb], [batch, inputs, emb] -> [batch, length, emb].

    `buckets` [length, length] are for a layer with a position bias of its own.
    """
    self_bias = self.with_positions(self_bias, buckets)
    x = layer_parts.constrain(x, "batch", "length", "embed")
    y = self.pre_self_attention_layer_norm(x)
    x = x + self.dropout(self.self_attention(y, y, self_bias))
    x = layer_parts.constrain(x, "batch", "length", "embed")
    y = self.pre_cross_attention_layer_norm(x)
    x = x + self.dropout(self.encoder_decoder_attention(y, encoded, cross_bias))
    return self.feed_forward(x)

  def cross_keys_and_values(self, encoded: Array) -> tuple[Array, Array]:
    """[batch, inputs, emb] -> two of [batch, heads, inputs, head_dim]."""
    return self.encoder_decoder_attention.keys_and_values(encoded)

  def step(
    self,
    x: Array,
    self_cache: tuple[Array, Array],
    cross_cache: tuple[Array, Array],
    self_bias: Array,
    cross_bias: Array,
    index: Array,
  ) -> tuple[Array, tuple[Array, Array]]:
    """One position of many sequences, several of which may share an example.

    Args:
      x: [sequences, 1, emb].
      self_cache: keys and values [sequences, heads, max_length, head_dim].
      cross_cache: keys and values [examples, heads, inputs, head_dim];
        sequences = examples * n, those of one example adjacent.
      self_bias: [1, heads, 1, max_length], causal mask included.
      cross_bias: [examples, 1, 1, inputs].
      index: position, scalar int32.

    Returns:
      [sequences, 1, emb] and the extended `self_cache`.
    """
    y = self.pre_self_attention_layer_norm(x)
    new = self.self_attention.keys_and_values(y)
    self_cache = jax.tree.map(
      lambda old, one: jax.lax.dynamic_update_slice_in_dim(
        old, one, index, axis=2
      ),
      self_cache,
      new,
    )
    x = x + self.self_attention.attend(y, *self_cache, self_bias)
    # The sequences of an example are so many queries to the same keys: their
    # keys and values are neither repeated nor reordered with the beams.
    y = self.pre_cross_attention_layer_norm(x)
    y = y.reshape(cross_cache[0].shape[0], -1, y.shape[-1])
    y = self.encoder_decoder_attention.attend(y, *cross_cache, cross_bias)
    x = x + y.reshape(x.shape)
    return x + self.mlp(self.pre_mlp_layer_norm(x)), self_cache


class ScannedEncoderLayer(EncoderLayer):
  """An encoder layer as the body of a scan: (carry, nothing to stack)."""

  def __call__(self, x, *biases):
    return super().__call__(x, *biases), None


class ScannedDecoderLayer(DecoderLayer):
  """A decoder layer as the body of a scan."""

  def __call__(self, x, encoded, *biases):
    return super().__call__(x, encoded, *biases), None


def with_remat(layer_class, cfg: config_lib.T5Config):
  """The layer class under the configuration's rematerialisation policy."""
  if cfg.remat_policy == "none":
    return layer_class
  policy = None  # "full": save a layer's inputs only
  if cfg.remat_policy == "minimal":
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  # Inside a scan nothing can be shared between forward and backward pass, so
  # the barriers against it would only cost time.
  return nn.remat(layer_class, policy=policy, prevent_cse=not cfg.scan_layers)


def scanned(
  layer_class, cfg: config_lib.T5Config, length: int, num_broadcast: int
):
  """`with_remat`, looped over parameters stacked on axis 1."""
  num_broadcast += cfg.relpos_bias_per_layer  # the buckets
  in_axes: Any = (nn.broadcast,) * num_broadcast
  return nn.scan(
    with_remat(layer_class, cfg),
    variable_axes={"params": layer_stacking.LAYERS_AXIS},
    split_rngs={"params": True, "dropout": True},
    in_axes=in_axes,
    length=length,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
