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
  layer_parts,
  layers,
  relative_positions,
)
from dss_jax.models import config as config_lib

Array = jax.Array
Bias = attention_bias.Bias


class _Stack(nn.Module):
  """What encoder and decoder have in common: layers, and what is around them.

  Attributes:
    config: the sizes.
    deterministic: whether nothing is dropped.
  """

  config: config_lib.T5Config
  deterministic: bool

  def set_up(
    self,
    name: str,
    num_layers: int,
    layer_class: Any,
    scanned_class: Any,
    num_broadcast: int,
  ) -> None:
    """Makes the modules, for the `setup` of each stack.

    Args:
      name: "encoder" or "decoder".
      num_layers: how many layers there are.
      layer_class: a layer by itself.
      scanned_class: the same layer as the body of a scan.
      num_broadcast: arguments that all layers of a scan share.
    """
    cfg = self.config
    if not cfg.relpos_bias_per_layer:
      self.relpos_bias = relative_positions.RelativePositionBiases(
        cfg, bidirectional=name == "encoder"
      )
    if cfg.scan_layers:
      scan = layers.scanned(scanned_class, cfg, num_layers, num_broadcast)
      setattr(self, name, scan(cfg, self.deterministic))
    else:
      layer_class = layers.with_remat(layer_class, cfg)
      self.layers = [
        layer_class(cfg, self.deterministic) for _ in range(num_layers)
      ]
    setattr(self, f"{name}_norm", layer_parts.LayerNorm(cfg.dtype))
    self.input_dropout = layer_parts.Dropout(cfg, self.deterministic)
    self.output_dropout = layer_parts.Dropout(
      cfg, self.deterministic, always_full=name == "encoder"
    )

  def run_layers(self, name: str, x: Array, *arguments: Any) -> Array:
    """[batch, length, emb] -> [batch, length, emb], dropout and norm included.

    Args:
      name: "encoder" or "decoder".
      x: embedded tokens.
      arguments: what each layer takes besides.
    """
    x = self.input_dropout(x)
    if self.config.scan_layers:
      x, _ = getattr(self, name)(x, *arguments)
    else:
      for layer in self.layers:
        x = layer(x, *arguments)
    return self.output_dropout(getattr(self, f"{name}_norm")(x))


class Encoder(_Stack):
  """The encoder stack, from embedded tokens to normed hidden states."""

  def setup(self):
    self.set_up(
      "encoder",
      self.config.num_encoder_layers,
      layers.EncoderLayer,
      layers.ScannedEncoderLayer,
      num_broadcast=1,
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
    return self.run_layers("encoder", x, bias, *buckets)


class Decoder(_Stack):
  """The decoder stack, from embedded tokens to normed hidden states."""

  def setup(self):
    cfg = self.config
    self.set_up(
      "decoder",
      cfg.num_decoder_layers,
      layers.DecoderLayer,
      layers.ScannedDecoderLayer,
      num_broadcast=3,
    )
    if not cfg.logits_via_embedding:
      self.logits_dense = layer_parts.Dense(
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
    return self.run_layers(
      "decoder", x, encoded, self_bias, cross_bias, *buckets
    )

  def attend(
    self,
    x: Array,
    encoded: Array,
    relative: np.ndarray,
    mask: Array | np.ndarray,
    cross_mask: Array,
  ) -> Array:
    """Decodes positions that see what the masks say.

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
    return self.run_layers(
      "decoder", x, encoded, self_bias, cross_bias, *buckets
    )

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
    """One position, [sequences, 1, emb]: see layers.DecoderLayer.step."""
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
    self.token_embedder = layer_parts.Embed(self.config)
    self.encoder = Encoder(self.config, self.deterministic)
    self.decoder = Decoder(self.config, self.deterministic)

  def _embed(self, tokens: Array) -> Array:
    x = self.token_embedder(tokens)
    return layer_parts.constrain(x, "batch", "length", "embed")

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
    return layer_parts.constrain(logits, "batch", "length", "vocab")

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
