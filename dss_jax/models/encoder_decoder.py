"""The student as plain functions: all the rest of dss_jax knows of the model.

Nothing of Flax passes through here: parameters are nested dicts of arrays,
axes are tuples of names.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.models import attention_bias, layer_stacking, network
from dss_jax.models.config import T5Config
from dss_jax.models.decode_cache import DecodeCache

Array = jax.Array
IntArray = jax.Array | np.ndarray
Params = dict[str, Any]
Batch = Mapping[str, IntArray]


class EncoderDecoderModel:
  """A T5 student: `init`, `apply`, `encode`, `init_cache`, `decode_step`.

  All methods are pure and may be jitted; the object itself holds only the
  configuration.

  Attributes:
    config: the sizes.
  """

  def __init__(self, config: T5Config):
    self.config = config
    # Decoding goes layer by layer even where training scans: a step is small,
    # and the slices of stacked parameters leave the decoding loop.
    self._step_config = dataclasses.replace(
      config, scan_layers=False, remat_policy="none"
    )

  def __repr__(self) -> str:
    return f"EncoderDecoderModel({self.config!r})"

  def init(self, key: Array) -> Params:
    """Fresh float32 parameters under T5X's paths.

    The same key gives the same values whether layers are scanned or not.

    Args:
      key: a typed key (`jax.random.key`).
    """
    # Drawn for all layers of a stack at once: compiling the random draws of
    # every layer apart takes minutes for a deep model.
    config = dataclasses.replace(self.config, scan_layers=True)
    params = nn.meta.unbox(_init(config, key))
    if self.config.scan_layers:
      return params
    return layer_stacking.unstack_layers(params)

  def param_axes(self) -> dict[str, Any]:
    """The tree of `init` with a tuple of logical axis names for each array."""
    return jax.tree.map(
      lambda box: tuple(box.names),
      self._boxed_shapes,
      is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata),
    )

  @functools.cached_property
  def _boxed_shapes(self) -> Any:
    # Tracing 48 layers takes 0.8 s, and a run asks half a dozen times.
    return jax.eval_shape(
      functools.partial(_init, self.config), jax.random.key(0)
    )

  def apply(
    self, params: Params, batch: Batch, *, dropout_key: Array | None = None
  ) -> Array:
    """Logits of every decoder position.

    Args:
      params: as from `init`.
      batch: `encoder_input_tokens` [batch, inputs] and `decoder_input_tokens`
        [batch, length], int32. Packed rows bring `encoder_segment_ids` and
        `decoder_segment_ids` too; positions need not be given, since T5 sees
        only distances within a segment. Without segment ids the padding is
        found as tokens of id 0, on the decoder's side in
        `decoder_target_tokens` (its inputs begin with 0) where given.
      dropout_key: draws the dropout masks; None for no dropout.

    Returns:
      [batch, length, vocab] float32.
    """
    hidden = self.hidden_states(params, batch, dropout_key=dropout_key)
    return self.logits(params, hidden)

  def hidden_states(
    self, params: Params, batch: Batch, *, dropout_key: Array | None = None
  ) -> Array:
    """The decoder's output before the projection onto the vocabulary.

    Takes what `apply` takes; returns [batch, length, emb] in the activations'
    dtype. `logits` does the rest, for all positions or for chosen ones.
    """
    encoder_segments, decoder_segments = _segments(batch)
    return _call(
      self.config,
      "hidden_states",
      params,
      batch["encoder_input_tokens"],
      encoder_segments,
      batch["decoder_input_tokens"],
      decoder_segments,
      dropout_key=dropout_key,
    )

  def logits(self, params: Params, hidden: Array) -> Array:
    """Projects [batch, length, emb] to [batch, length, vocab] float32."""
    return _call(self.config, "logits", params, hidden)

  def encode(
    self,
    params: Params,
    encoder_input_tokens: IntArray,
    *,
    encoder_segment_ids: IntArray | None = None,
    encoder_positions: IntArray | None = None,
  ) -> Array:
    """Encodes [batch, inputs] int32 tokens to [batch, inputs, emb].

    Args:
      params: as from `init`.
      encoder_input_tokens: [batch, inputs] int32, 0 is padding.
      encoder_segment_ids: [batch, inputs] int32 of packed rows.
      encoder_positions: accepted for symmetry with the batch; distances
        within a segment are those within the row.
    """
    del encoder_positions
    segments = encoder_segment_ids
    if segments is None:
      segments = _as_segment(encoder_input_tokens)
    return _call(self.config, "encode", params, encoder_input_tokens, segments)

  def branch_states(
    self,
    params: Params,
    encoded: Array,
    encoder_input_tokens: IntArray,
    tokens: IntArray,
    depth: np.ndarray,
    mask: np.ndarray,
  ) -> Array:
    """Hidden states of many continuations of the same input at once.

    Their tokens lie in one row; each sees those that lead to it, so that
    continuations share their beginnings.

    Args:
      params: as from `init`.
      encoded: [batch, inputs, emb] from `encode`.
      encoder_input_tokens: [batch, inputs] int32, for the padding.
      tokens: [batch, length] int32.
      depth: [length] int, how many tokens lead to each; static.
      mask: [length, length] bool, the tokens (second axis) that each one (first
        axis) sees; static.

    Returns:
      [batch, length, emb], for `logits`.
    """
    return _call(
      self.config,
      "branch_states",
      params,
      tokens,
      encoded,
      encoder_input_tokens,
      depth[None, :] - depth[:, None],
      mask,
    )

  def init_cache(
    self,
    params: Params,
    encoded: Array,
    encoder_input_tokens: IntArray,
    max_decode_length: int,
  ) -> DecodeCache:
    """An empty cache for decoding one sequence for each example.

    The keys and values of the encoded inputs are computed here, once.

    Args:
      params: as from `init`.
      encoded: [batch, inputs, emb] from `encode`.
      encoder_input_tokens: [batch, inputs] int32, for the padding.
      max_decode_length: the greatest number of tokens decoded; static.
    """
    cfg = self._step_config
    cross, biases = _call(
      cfg,
      "start_decoding",
      self._step_params(params),
      encoded,
      max_decode_length,
    )
    shape = (
      encoded.shape[0],
      cfg.num_heads,
      max_decode_length,
      cfg.head_dim,
    )
    # An array of its own for each leaf, so that the cache can be donated.
    caches = [
      tuple(jnp.zeros(shape, cfg.dtype) for _ in range(2))
      for _ in range(cfg.num_decoder_layers)
    ]
    mask_bias = attention_bias.padding_bias(encoder_input_tokens, cfg.dtype)
    return DecodeCache(
      index=jnp.zeros((), jnp.int32),
      per_sequence=caches,
      per_example={"keys_and_values": cross, "bias": mask_bias},
      step_biases=biases,
    )

  def decode_step(
    self, params: Params, cache: DecodeCache, tokens: IntArray
  ) -> tuple[Array, DecodeCache]:
    """Feeds one token to each sequence.

    Args:
      params: as from `init`.
      cache: from `init_cache`, or the last step's.
      tokens: [sequences] int32; 0 begins a sequence. With several sequences
        for each example (`cache.repeat`), those of one example are adjacent.

    Returns:
      Logits [sequences, vocab] float32 of the next token, and the cache one
      position on.
    """
    length = cache.max_length
    # [..., heads, 2 * length - 1] -> [..., 1, heads, 1, length]
    biases = cache.step_biases
    self_bias = jax.lax.dynamic_slice_in_dim(
      biases, length - 1 - cache.index, length, axis=biases.ndim - 1
    )[..., None, :, None, :]
    logits, caches = _call(
      self._step_config,
      "decode_step",
      self._step_params(params),
      tokens,
      cache.per_sequence,
      cache.per_example["keys_and_values"],
      self_bias,
      cache.per_example["bias"],
      cache.index,
    )
    cache = dataclasses.replace(
      cache, index=cache.index + 1, per_sequence=caches
    )
    return logits, cache

  def _step_params(self, params: Params) -> Params:
    if self.config.scan_layers:
      return layer_stacking.unstack_layers(params)
    return params


def _init(config: T5Config, key: Array) -> Any:
  """Parameters boxed with the names of their axes."""
  tokens = jnp.ones((1, 1), jnp.int32)
  # Kernels want rows longer than these, and have no parameters.
  config = dataclasses.replace(config, attention_implementation="xla")
  # Without rules: the caller that jits this chooses the outputs' sharding.
  with nn.logical_axis_rules(()):
    transformer = network.Transformer(config)
    return transformer.init({"params": key}, *[tokens] * 4)["params"]


def _call(
  config: T5Config,
  method: str,
  params: Params,
  *args: Any,
  dropout_key: Array | None = None,
) -> Any:
  """Calls a method of the network, without dropout if there is no key."""
  transformer = network.Transformer(config, deterministic=dropout_key is None)
  rngs = {} if dropout_key is None else {"dropout": dropout_key}
  return transformer.apply({"params": params}, *args, rngs=rngs, method=method)


def _as_segment(tokens: IntArray) -> IntArray:
  """One segment: all that is not padding."""
  return (tokens > 0).astype(np.int32)


def _segments(batch: Batch) -> tuple[IntArray, IntArray]:
  """Segment ids of the encoder's and of the decoder's rows."""
  if ("encoder_segment_ids" in batch) != ("decoder_segment_ids" in batch):
    raise ValueError(
      "a batch has either both of encoder_segment_ids and"
      f" decoder_segment_ids or none; this one has {sorted(batch)}"
    )
  if "encoder_segment_ids" in batch:
    return batch["encoder_segment_ids"], batch["decoder_segment_ids"]
  encoder_segments = _as_segment(batch["encoder_input_tokens"])
  targets = batch.get("decoder_target_tokens")
  if targets is None:
    # Padding looks like the first input; causality protects the rest.
    return encoder_segments, jnp.ones_like(batch["decoder_input_tokens"])
  return encoder_segments, _as_segment(targets)
