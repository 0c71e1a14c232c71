"""What a step should communicate, by a formula from sizes and mesh.

For T5X's standard rules and XLA's CPU compiler, with which it agrees but for
scalars; other compilers sum gradients in other types. `docs/mesh.md` explains
the terms; `collectives.py` reads what a compiled program does communicate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.models.config import T5Config
from dss_jax.models.partitioning.logical_axes import (
  DATA_AXIS,
  MODEL_AXIS,
  REPLICA_AXIS,
)


@dataclasses.dataclass(frozen=True)
class PlacedParam:
  """A parameter on the mesh.

  Attributes:
    path: "decoder/layers_0/mlp/wi_0/kernel".
    bytes: on one device, were it whole over `data`.
    fetched: whether it is split over `data`.
    trained: whether it has a gradient.
  """

  path: str
  bytes: int
  fetched: bool
  trained: bool

  @property
  def in_layer(self) -> bool:
    """Whether it belongs to one of the layers of a stack."""
    stack = self.path.split("/")[1:2]
    return stack != [] and (
      stack[0] in ("encoder", "decoder") or stack[0].startswith("layers_")
    )

  @property
  def is_table(self) -> bool:
    """Whether it has a row or a column for each entry of the vocabulary."""
    return self.path.split("/")[-2] in ("token_embedder", "logits_dense")


@dataclasses.dataclass(frozen=True)
class ExpectedTraffic:
  """Bytes of arrays on one device over a step.

  Attributes:
    gradients: all-reduced over `data`, or reduced and scattered, and those of
      parts all-reduced over `replica`.
    activations: all-reduced over `model`.
    parameters: all-gathered over `data`.
  """

  gradients: int
  activations: int
  parameters: int


def expected_traffic(
  config: T5Config,
  params: Sequence[PlacedParam],
  shape: BatchShape,
  mesh_shape: Mapping[str, int],
  num_microbatches: int = 1,
) -> ExpectedTraffic | None:
  """The formula; None for meshes that it does not follow.

  Where heads do not divide into the `model` axis, activations travel in other
  ways. Where copies hold the vocabulary's tables whole, the parts in which
  these are summed are put together again.

  Args:
    config: the student's sizes.
    params: all its parameters, adapters included.
    shape: of the global batch.
    mesh_shape: devices along each mesh axis.
    num_microbatches: parts that a batch is computed in; each sums its gradients
      over the devices.
  """
  if config.num_heads % mesh_shape[MODEL_AXIS]:
    return None
  if min(mesh_shape[REPLICA_AXIS], mesh_shape[DATA_AXIS]) > 1:
    tables = [p for p in params if p.trained and p.is_table]
    if mesh_shape[MODEL_AXIS] == 1 and not all(p.fetched for p in tables):
      return None
  return ExpectedTraffic(
    gradients=num_microbatches * _gradients(config, params, shape, mesh_shape),
    activations=_activations(config, shape, mesh_shape),
    parameters=_fetched(config, params, num_microbatches),
  )


def _gradients(
  config: T5Config,
  params: Sequence[PlacedParam],
  shape: BatchShape,
  mesh_shape: Mapping[str, int],
) -> int:
  """Bytes of one micro-batch's gradients.

  An array like each parameter; the embedding table's once more where it makes
  logits; and the position biases' as they are added to the attention scores,
  before they are summed into their tables. Of what is stored in parts, several
  copies add up the parts.
  """
  if _batch_shards(mesh_shape) == 1:
    return 0
  heads = _part(config.num_heads, mesh_shape)
  total = 0
  for param in params:
    if not param.trained:
      continue
    *_, module, name = param.path.split("/")
    if name == "rel_embedding":
      encoder = param.path.startswith("encoder/")
      length = shape.encoder_length if encoder else shape.decoder_length
      layers = 1
      if config.relpos_bias_per_layer and config.scan_layers:
        layers = (
          config.num_encoder_layers if encoder else config.num_decoder_layers
        )
      total += 4 * layers * heads * length**2
      continue
    size = param.bytes
    if module == "token_embedder":
      size *= 1 + config.logits_via_embedding
    total += size
    summed_in_parts = param.in_layer or mesh_shape[MODEL_AXIS] == 1
    if mesh_shape[REPLICA_AXIS] > 1 and param.fetched and summed_in_parts:
      total += size // mesh_shape[DATA_AXIS]
  return total


def _activations(
  config: T5Config, shape: BatchShape, mesh_shape: Mapping[str, int]
) -> int:
  """Bytes of activations that devices of a `model` group sum.

  Forward, what each projection out of split heads or a split feed-forward layer
  gives, and embedded tokens. Backward, the gradient of what goes into each of
  the projections; queries, keys and values are three. Where whole layers are
  computed again, all of the forward but a layer's last product.
  """
  if mesh_shape[MODEL_AXIS] == 1:
    return 0
  rows = shape.rows // _batch_shards(mesh_shape)
  size = 4 * rows * config.emb_dim  # The CPU computes in float32.
  encoder, decoder = shape.encoder_length * size, shape.decoder_length * size
  mlp = config.mlp_dim % mesh_shape[MODEL_AXIS] == 0
  vocab = config.vocab_size % mesh_shape[MODEL_AXIS] == 0
  mlp_inputs = mlp * len(config.mlp_activations)
  forward = (
    config.num_encoder_layers * (1 + mlp) * encoder
    + config.num_decoder_layers * (2 + mlp) * decoder
    + vocab * (encoder + decoder)
  )
  backward = (
    config.num_encoder_layers * (3 + mlp_inputs) * encoder
    + config.num_decoder_layers * ((4 + mlp_inputs) * decoder + 2 * encoder)
    + vocab * decoder
  )
  again = 0
  if config.remat_policy == "full":
    again = mlp * (
      config.num_encoder_layers * encoder
      + config.num_decoder_layers * 2 * decoder
    )
  return forward + again + backward


def _fetched(
  config: T5Config, params: Sequence[PlacedParam], num_microbatches: int
) -> int:
  """Bytes of parameters that are put together from all devices' parts.

  Once for a step, as long as no scan takes a layer at a time: then the layers'
  for each micro-batch. And once more for each micro-batch's backward pass, where
  rematerialisation does not keep them.
  """
  layers = sum(p.bytes for p in params if p.fetched and p.in_layer)
  others = sum(p.bytes for p in params if p.fetched and not p.in_layer)
  forward = num_microbatches if config.scan_layers else 1
  backward = 0 if config.remat_policy == "none" else num_microbatches
  return others + (forward + backward) * layers


def _batch_shards(mesh_shape: Mapping[str, int]) -> int:
  return mesh_shape[REPLICA_AXIS] * mesh_shape[DATA_AXIS]


def _part(size: int, mesh_shape: Mapping[str, int]) -> int:
  """What a device has of a dimension that the rules split over `model`."""
  shards = mesh_shape[MODEL_AXIS]
  return size // shards if size % shards == 0 else size
