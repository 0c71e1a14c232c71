"""The T5 encoder-decoder in Linen, packed rows and cached decoding included.

Parameter paths are T5X's. Each stack computes one attention bias (relative
positions and mask together) and hands it to all its layers; with
`relpos_bias_per_layer` it hands them the mask, to which each adds its own.

With `scan_layers` the layers of the encoder live stacked under
`encoder/encoder`, those of the decoder under `decoder/decoder`, axis 1 of each
array counting layers: T5X's `scalable_t5` layout, except that the relative
position bias stays shared by the layers, as in every published T5 but UMT5,
unless `relpos_bias_per_layer` says otherwise, and that heads and head_dim stay
joined in one axis. `layer_stacking.py` converts.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.models import (
  attention_bias,
  layers,
  relative_positions,
  transformer_layers,
)
from dss_jax.models import config as config_lib

Array = jax.Array
Bias = attention_bias.Bias


class Encoder(nn.Module):
  """The encoder stack, from embedded tokens to normed hidden states."""

  config: config_lib.T5Config
  deterministic: bool

  def setup(self):
    cfg = self.config
    if not cfg.relpos_bias_per_layer:
      self.relpos_bias = relative_positions.RelativePositionBiases(
        cfg, bidirectional=True
      )
    if cfg.scan_layers:
      layer_class = transformer_layers.scanned(
        transformer_layers.ScannedEncoderLayer,
        cfg,
        cfg.num_encoder_layers,
        1,
      )
      self.encoder = layer_class(cfg, self.deterministic)
    else:
      layer_class = transformer_layers.with_remat(
        transformer_layers.EncoderLayer, cfg
      )
      self.layers = [
        layer_class(cfg, self.deterministic)
        for _ in range(cfg.num_encoder_layers)
      ]
    self.encoder_norm = layers.LayerNorm(cfg.dtype)
    self.input_dropout = layers.Dropout(cfg, self.deterministic)
    self.output_dropout = layers.Dropout(
      cfg, self.deterministic, always_full=True
    )

  def __call__(self, x: Array, segments: Array) -> Array:
    """Encodes embedded tokens.

    Args:
      x: [batch, length, emb].
      segments: [batch, length] int32; a position sees those of its own
        segment; 0 is padding.

    Returns:
      [batch, length, emb].
    """
    relative = relative_positions.within(x.shape[1])
    buckets, position = attention_bias.positions(
      self, relative, bidirectional=True
    )
    bias = attention_bias.of_segments(
      self, segments, segments, position, has_positions=True, causal=False
    )
    x = self.input_dropout(x)
    if self.config.scan_layers:
      x, _ = self.encoder(x, bias, *buckets)
    else:
      for layer in self.layers:
        x = layer(x, bias, *buckets)
    return self.output_dropout(self.encoder_norm(x))


class Decoder(nn.Module):
  """The decoder stack, from embedded tokens to normed hidden states."""

  config: config_lib.T5Config
  deterministic: bool

  def setup(self):
    cfg = self.config
    if not cfg.relpos_bias_per_layer:
      self.relpos_bias = relative_positions.RelativePositionBiases(
        cfg, bidirectional=False
      )
    if cfg.scan_layers:
      layer_class = transformer_layers.scanned(
        transformer_layers.ScannedDecoderLayer,
        cfg,
        cfg.num_decoder_layers,
        3,
      )
      self.decoder = layer_class(cfg, self.deterministic)
    else:
      layer_class = transformer_layers.with_remat(
        transformer_layers.DecoderLayer, cfg
      )
      self.layers = [
        layer_class(cfg, self.deterministic)
        for _ in range(cfg.num_decoder_layers)
      ]
    self.decoder_norm = layers.LayerNorm(cfg.dtype)
    self.input_dropout = layers.Dropout(cfg, self.deterministic)
    self.output_dropout = layers.Dropout(cfg, self.deterministic)
    if not cfg.logits_via_embedding:
      self.logits_dense = layers.Dense(
        cfg.vocab_size,
        ("embed", "vocab"),
        cfg.dtype,
        output_dtype="float32",
      )

  def __call__(
    self, x: Array, encoded: Array, segments: Array, input_segments: Array
  ) -> Array:
    """Decodes embedded tokens, all positions at once.

    Args:
      x: [batch, length, emb], the embedded decoder inputs.
      encoded: [batch, inputs, emb].
      segments: [batch, length] int32, 0 is padding.
      input_segments: [batch, inputs] int32; segment s of the decoder attends
        to segment s of the encoder.

    Returns:
      [batch, length, emb].
    """
    relative = relative_positions.within(x.shape[1])
    buckets, position = attention_bias.positions(
      self, relative, bidirectional=False
    )
    self_bias = attention_bias.of_segments(
      self, segments, segments, position, has_positions=True, causal=True
    )
    cross_bias = attention_bias.of_segments(
      self, segments, input_segments, None, has_positions=False, causal=False
    )
    return self._run_layers(x, encoded, self_bias, cross_bias, *buckets)

  def attend(
    self,
    x: Array,
    encoded: Array,
    relative: np.ndarray,
    mask: Array | np.ndarray,
    cross_mask: Array,
  ) -> Array:
    """Decodes positions that see what they are told to.

    Args:
      x: [batch, length, emb].
      encoded: [batch, inputs, emb].
      relative: int [length, length], key position - query position.
      mask: bool, broadcastable to [batch, 1, length, length].
      cross_mask: bool, broadcastable to [batch, 1, length, inputs].

    Returns:
      [batch, length, emb].
    """
    buckets, position = attention_bias.positions(
      self, relative, bidirectional=False
    )
    self_bias = attention_bias.dense(self.config, mask, position)
    cross_bias = attention_bias.dense(self.config, cross_mask, None)
    return self._run_layers(x, encoded, self_bias, cross_bias, *buckets)

  def _run_layers(self, x: Array, encoded: Array, *biases: Any) -> Array:
    x = self.input_dropout(x)
    if self.config.scan_layers:
      x, _ = self.decoder(x, encoded, *biases)
    else:
      for layer in self.layers:
        x = layer(x, encoded, *biases)
    return self.output_dropout(self.decoder_norm(x))

  def cross_keys_and_values(self, encoded: Array) -> list:
    """Keys and values of the encoded inputs, for each layer."""
    return [layer.cross_keys_and_values(encoded) for layer in self.layers]

  def step_biases(self, max_length: int) -> Array:
    """Self-attention biases of every step: [heads, 2 * max_length - 1].

    With a bias in each layer: [layers, heads, 2 * max_length - 1]. Column
    max_length - 1 is distance 0, columns to its left are keys farther back,
    columns to its right keys not yet decoded (masked). The biases of step t
    are the max_length columns from max_length - 1 - t on.
    """
    relative = np.arange(1 - max_length, max_length)
    mask_bias = attention_bias.of_mask(relative <= 0, self.config.dtype)
    if self.config.relpos_bias_per_layer:
      biases = [layer.relpos_bias(relative) for layer in self.layers]
      return jnp.stack(biases) + mask_bias
    return self.relpos_bias(relative) + mask_bias

  def step(
    self, x: Array, self_caches, cross_caches, self_bias, cross_bias, index
  ):
    """One position, [sequences, 1, emb]: see transformer_layers.DecoderLayer.step."""
    new_caches = []
    for i, (layer, self_cache, cross_cache) in enumerate(
      zip(self.layers, self_caches, cross_caches, strict=True)
    ):
      bias = self_bias[i] if self.config.relpos_bias_per_layer else self_bias
      x, self_cache = layer.step(
        x, self_cache, cross_cache, bias, cross_bias, index
      )
      new_caches.append(self_cache)
    return self.decoder_norm(x), new_caches


class Transformer(nn.Module):
  """T5: token embeddings shared by an encoder and a decoder."""

  config: config_lib.T5Config
  deterministic: bool = True

  def setup(self):
    self.token_embedder = layers.Embed(self.config)
    self.encoder = Encoder(self.config, self.deterministic)
    self.decoder = Decoder(self.config, self.deterministic)

  def _embed(self, tokens: Array) -> Array:
    x = self.token_embedder(tokens)
    return layers.constrain(x, "batch", "length", "embed")

  def encode(self, tokens: Array, segments: Array) -> Array:
    """[batch, inputs] int32 tokens and segments -> [batch, inputs, emb]."""
    return self.encoder(self._embed(tokens), segments)

  def hidden_states(
    self,
    encoder_tokens: Array,
    encoder_segments: Array,
    decoder_tokens: Array,
    decoder_segments: Array,
  ) -> Array:
    """Decoder hidden states [batch, length, emb], ready to be projected."""
    # Embedded together, the table has one gradient, which devices sum once.
    embedded = self._embed(
      jnp.concatenate([encoder_tokens, decoder_tokens], axis=1)
    )
    inputs, outputs = jnp.split(embedded, [encoder_tokens.shape[1]], axis=1)
    encoded = self.encoder(inputs, encoder_segments)
    return self.decoder(
      outputs,
      encoded,
      decoder_segments,
      encoder_segments,
    )

  def branch_states(
    self,
    tokens: Array,
    encoded: Array,
    input_tokens: Array,
    relative: np.ndarray,
    mask: np.ndarray,
  ) -> Array:
    """Decoder hidden states of a tree of tokens: see the model's method."""
    return self.decoder.attend(
      self._embed(tokens),
      encoded,
      relative,
      mask[None, None],
      (input_tokens > 0)[:, None, None, :],
    )

  def logits(self, hidden: Array) -> Array:
    """[batch, length, emb] -> [batch, length, vocab] float32."""
    if self.config.logits_via_embedding:
      logits = self.token_embedder.attend(hidden)
    else:
      logits = self.decoder.logits_dense(hidden)
    return layers.constrain(logits, "batch", "length", "vocab")

  def __call__(self, *tokens_and_segments: Array) -> Array:
    """As `hidden_states`, projected: touches every parameter, for `init`."""
    return self.logits(self.hidden_states(*tokens_and_segments))

  def start_decoding(self, encoded: Array, max_length: int):
    """Cross-attention keys and values by layer, and biases of all steps."""
    return (
      self.decoder.cross_keys_and_values(encoded),
      self.decoder.step_biases(max_length),
    )

  def decode_step(self, tokens: Array, *caches_and_biases):
    """[sequences] int32 -> logits [sequences, vocab] float32, caches."""
    x = self._embed(tokens[:, None])
    hidden, caches = self.decoder.step(x, *caches_and_biases)
    return self.logits(hidden)[:, 0], caches
