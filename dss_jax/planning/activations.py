"""Bytes of a step's temporary arrays on one device, by a formula.

What a step is given and gives back is known exactly (`memory`). What it needs
in between is the compiler's affair; the formula is for devices that are not
there to compile for. It counts what the backward pass needs of the forward pass
(`saved_arrays`), and adds what is alive beside that.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from dss_jax.models import lora
from dss_jax.models.config import T5Config
from dss_jax.models.partitioning.logical_axes import (
  MODEL_AXIS,
  Rules,
  mesh_axes_of,
)
from dss_jax.planning import saved_arrays

_Layers = tuple[saved_arrays.Saved, saved_arrays.Saved]


@dataclasses.dataclass(frozen=True)
class ActivationFormula:
  """Bytes of a step's temporary arrays on one device, without compiling.

  The sum of

  * saved: what the forward pass leaves to the backward pass, `rows` times
    `saved_arrays.Saved.per_row`, and what is constant. Under `remat_policy` it
    is that much less;
  * working: the largest of what the backward pass and the losses work on: the
    largest layer as it is without rematerialisation, half as much again in a
    scan, which takes a layer's share out of the arrays of all layers, half of
    it less beside adapters, whose frozen kernels have no gradients; or two
    arrays of the logits that exist at once; or one of them and the parameters
    outside layers (embeddings) in another form than they are stored in: cast to
    bfloat16, or fetched from other devices, when they have whole gradients,
    too, until these are summed and split; an embedding table that also makes
    the logits is fetched for them once more, if they are made by chunks;
  * parameters of layers in such another form. All of them are alive at once,
    unless rematerialisation makes them anew for each layer, of which a scan
    has two. The CPU's compiler casts frozen ones before all layers;
  * logits: another array of them where the embedding table makes them, whose
    scaling is a pass of its own;
  * gradients: an array like each trained parameter; of micro-batches a second
    one to sum them up, where a scan keeps it apart;
  * updates: half as much as the optimizer's state;

  but never less than twice the gradients and the updates, where the optimizer
  is at work, nor, of micro-batches, than three times the gradients. `rows` are
  those of one device in one micro-batch. The factors were fitted to what XLA's
  CPU compiler uses.

  Attributes:
    saved: of the student as it is compiled.
    layer: bytes a row of its largest layer, without rematerialisation.
    layers_at_work: such layers that the backward pass works on.
    parameters_in_layers: bytes of those in another form than they are stored
      in, and alive at once.
    parameters_outside: bytes of the others, and of their whole gradients.
    table_for_chunks: bytes of these that logits made by chunks have anew.
    config: sizes of one device's part of the student.
    decoder_length: tokens of a row.
    logits_at_once: positions; None for all of them. See `vocabulary_loss`.
    gradients: bytes on one device.
    optimizer: bytes of its state on one device.
    num_microbatches: parts that a batch is computed in.
  """

  saved: saved_arrays.Saved
  layer: int
  layers_at_work: float
  parameters_in_layers: int
  parameters_outside: int
  table_for_chunks: int
  config: T5Config
  decoder_length: int
  logits_at_once: int | None
  gradients: int
  optimizer: int
  num_microbatches: int

  def parts(self, rows: int) -> dict[str, int]:
    """The terms of the sum, by name."""
    config = self.config
    outside = self.parameters_outside
    positions = rows * self.decoder_length
    if self.logits_at_once is not None and positions > self.logits_at_once:
      positions = self.logits_at_once
      outside += self.table_for_chunks
    logits = 4 * positions * config.vocab_size
    saved = rows * self.saved.per_row + self.saved.constant
    layer = int(self.layers_at_work * rows * self.layer)
    apart = self.num_microbatches > 1 and config.scan_layers
    return {
      "saved": saved,
      "working": max(layer, 2 * logits, outside + logits),
      "parameters": self.parameters_in_layers,
      "logits": logits if config.logits_via_embedding else 0,
      "gradients": (2 if apart else 1) * self.gradients,
      "updates": self.optimizer // 2,
    }

  def bytes(self, rows: int) -> int:
    """The sum."""
    summed = 3 * self.gradients if self.num_microbatches > 1 else 0
    updated = 2 * self.gradients + self.optimizer // 2
    return max(sum(self.parts(rows).values()), summed, updated)


def activation_formula(
  config: T5Config,
  *,
  encoder_length: int,
  decoder_length: int,
  gradients: int,
  optimizer: int,
  logits_at_once: int | None,
  num_microbatches: int = 1,
  mesh_shape: Mapping[str, int],
  rules: Rules,
  fetching: bool = False,
  backend: str = "gpu",
  adapters: lora.LoraOptions | None = None,
) -> ActivationFormula:
  """The formula for a student on a mesh.

  Args:
    config: of the whole student.
    encoder_length: tokens of a row.
    decoder_length: tokens of a row.
    gradients: bytes of the gradients on one device.
    optimizer: bytes of the optimizer's state on one device.
    logits_at_once: positions of a device whose logits exist at once; None for
      all.
    num_microbatches: parts that a batch is computed in.
    mesh_shape: devices along each mesh axis.
    rules: logical axis rules.
    fetching: whether devices fetch parameters from each other.
    backend: as JAX names it. The CPU's compiler computes in float32 what is
      declared bfloat16, and undoes rematerialisation outside of scans.
    adapters: for a run that trains these only.
  """
  whole = config
  config = _part_of(whole, mesh_shape, rules)
  # A loop that turns once is none.
  if max(config.num_encoder_layers, config.num_decoder_layers) == 1:
    config = dataclasses.replace(config, scan_layers=False)
  # Frozen parameters are cast outside of loops.
  cast_at_once = (
    backend == "cpu" and config.dtype != "float32" and adapters is not None
  )
  if backend == "cpu":
    policy = config.remat_policy if config.scan_layers else "none"
    config = dataclasses.replace(config, dtype="float32", remat_policy=policy)
  trace_all = functools.partial(
    saved_arrays.trace,
    encoder_length=encoder_length,
    decoder_length=decoder_length,
  )
  trace = functools.partial(trace_all, adapters=adapters)

  # Devices that share heads gather them, but for a scan's.
  heads = whole.num_heads
  if config.scan_layers or heads % _shards("heads", mesh_shape, rules) == 0:
    heads = config.num_heads
  at_work = _layers(dataclasses.replace(config, num_heads=heads), trace)
  in_layers = outside = table_for_chunks = 0
  if fetching or cast_at_once or config.dtype != "float32":
    layers = _layers(config, trace_all)
    in_layers = _parameters_alive(
      config, layers, at_once=cast_at_once and not fetching
    )
    # Fetched ones that are trained have gradients beside them.
    arrays = 2 if fetching and adapters is None else 1
    outside = arrays * _parameters_outside(config, layers, trace_all)
    if fetching and config.logits_via_embedding:
      table_for_chunks = arrays * _table(config)
  return ActivationFormula(
    saved=trace(config),
    layer=max(layer.per_row for layer in at_work),
    layers_at_work=(1.5 if config.scan_layers else 1)
    - (0.5 if adapters is not None else 0),
    parameters_in_layers=in_layers,
    parameters_outside=outside,
    table_for_chunks=table_for_chunks,
    config=config,
    decoder_length=decoder_length,
    logits_at_once=logits_at_once,
    gradients=gradients,
    optimizer=optimizer,
    num_microbatches=num_microbatches,
  )


def _plain(config: T5Config, encoder: int, decoder: int) -> T5Config:
  """A student of so many layers, one by one and without rematerialisation."""
  return dataclasses.replace(
    config,
    num_encoder_layers=encoder,
    num_decoder_layers=decoder,
    scan_layers=False,
    remat_policy="none",
  )


def _layers(
  config: T5Config, trace: Callable[[T5Config], saved_arrays.Saved]
) -> _Layers:
  """Of an encoder layer and of a decoder layer."""
  one = trace(_plain(config, 1, 1))
  return (
    trace(_plain(config, 2, 1)) - one,
    trace(_plain(config, 1, 2)) - one,
  )


def _parameters_alive(
  config: T5Config, layers: _Layers, *, at_once: bool
) -> int:
  """Bytes of layers' parameters that are alive at once, as they are used."""
  encoder, decoder = (layer.parameters for layer in layers)
  if config.remat_policy != "none" and not at_once:
    return (2 if config.scan_layers else 1) * max(encoder, decoder)
  return (
    config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
  )


def _parameters_outside(
  config: T5Config,
  layers: _Layers,
  trace: Callable[[T5Config], saved_arrays.Saved],
) -> int:
  """Bytes of parameters outside layers, as they are used."""
  one = trace(_plain(config, 1, 1)).parameters
  # Of these tables the backward pass of the hidden states keeps nothing.
  tables = 1 if config.logits_via_embedding else 2
  return (
    one - sum(layer.parameters for layer in layers) + tables * _table(config)
  )


def _table(config: T5Config) -> int:
  """Bytes of a table of embeddings, as it is used."""
  itemsize = jnp.dtype(config.dtype).itemsize
  return config.vocab_size * config.emb_dim * itemsize


def _part_of(
  config: T5Config, mesh_shape: Mapping[str, int], rules: Rules
) -> T5Config:
  """The sizes of what one device computes, where the mesh splits layers."""

  def part(name: str, size: int) -> int:
    shards = _shards(name, mesh_shape, rules)
    return size // shards if size % shards == 0 else size

  # Of 12 heads on 8 devices, 4 groups of devices have 3 each.
  groups = math.gcd(config.num_heads, _shards("heads", mesh_shape, rules))
  return dataclasses.replace(
    config,
    num_heads=config.num_heads // groups,
    mlp_dim=part("mlp", config.mlp_dim),
    vocab_size=part("vocab", config.vocab_size),
  )


def _shards(name: str, mesh_shape: Mapping[str, int], rules: Rules) -> int:
  """Parts that an axis is split into, within a layer."""
  entry = next((axes for rule, axes in rules if rule == name), None)
  axes = mesh_axes_of(entry)
  return math.prod(mesh_shape[axis] for axis in axes if axis == MODEL_AXIS)
