"""Bytes on one device: exact from shapes and shardings, or by a formula.

What a step is given and gives back is known exactly. What it needs in between
is the compiler's affair; the formula here is for devices that are not there to
compile for. It traces the student, which takes a second and no memory, and
counts what the backward pass needs of the forward pass; see
`ActivationFormula`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dss_jax import lora, train_state
from dss_jax.data import packed_features
from dss_jax.logical_axes import MODEL_AXIS, Rules, mesh_axes_of
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel

PyTree = Any


def bytes_per_device(shapes: PyTree) -> int:
  """Bytes that each device stores of arrays.

  Args:
    shapes: pytree of arrays, or of `jax.ShapeDtypeStruct`s with shardings.
  """
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(shapes)
  )


def whole_bytes(shapes: PyTree) -> int:
  """Bytes of arrays that nobody splits."""
  return sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(shapes)
  )


@dataclasses.dataclass(frozen=True)
class Saved:
  """What a backward pass needs of its forward pass, in bytes.

  Attributes:
    per_row: for each packed row.
    constant: whatever the rows: relative positions, mostly.
    parameters: of the parameters themselves, in the types they are used in.
  """

  per_row: int
  constant: int
  parameters: int

  def __sub__(self, other: Saved) -> Saved:
    return Saved(
      self.per_row - other.per_row,
      self.constant - other.constant,
      self.parameters - other.parameters,
    )


@dataclasses.dataclass(frozen=True)
class ActivationFormula:
  """Bytes of a step's temporary arrays on one device, without compiling.

  The sum of

  * saved: what the forward pass leaves to the backward pass, `rows` times
    `Saved.per_row`, and what is constant. Under `remat_policy` it is that much
    less;
  * working: the largest of what the backward pass and the losses work on, three
    quarters of the largest layer as it is without rematerialisation (twice
    that in a scan, which takes a layer's share out of the arrays of all
    layers); or two arrays of the logits that exist at once; or one of them
    and the parameters outside layers (embeddings) in another form than they
    are stored in: cast to bfloat16, or fetched from other devices, when they
    have whole gradients, too, until these are summed and split;
  * parameters of layers in such another form. All of them are alive at once,
    unless rematerialisation makes them anew for each layer;
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
    layer: of its largest layer, without rematerialisation.
    layers: bytes of the parameters of all layers, as they are used.
    outside: bytes of the other parameters.
    config: sizes of one device's part of the student.
    decoder_length: tokens of a row.
    logits_at_once: positions; None for all of them. See `vocabulary_loss`.
    gradients: bytes on one device.
    optimizer: bytes of its state on one device.
    num_microbatches: parts that a batch is computed in.
    fully_sharded: whether devices fetch parameters from each other.
  """

  saved: Saved
  layer: Saved
  layers: int
  outside: int
  config: T5Config
  decoder_length: int
  logits_at_once: int | None
  gradients: int
  optimizer: int
  num_microbatches: int
  fully_sharded: bool

  def parts(self, rows: int) -> dict[str, int]:
    """The terms of the sum, by name."""
    config = self.config
    positions = rows * self.decoder_length
    if self.logits_at_once is not None:
      positions = min(positions, self.logits_at_once)
    logits = 4 * positions * config.vocab_size
    saved = rows * self.saved.per_row + self.saved.constant
    layers_at_work = 2 if config.scan_layers else 1
    layer = int(0.75 * layers_at_work * rows * self.layer.per_row)
    in_layers = outside = 0
    if self.fully_sharded or config.dtype != "float32":
      in_layers = self.layers
      if config.remat_policy != "none":
        in_layers = layers_at_work * self.layer.parameters
      outside = (2 if self.fully_sharded else 1) * self.outside
    apart = self.num_microbatches > 1 and config.scan_layers
    return {
      "saved": saved,
      "working": max(layer, 2 * logits, outside + logits),
      "parameters": in_layers,
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
  fully_sharded: bool = False,
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
    fully_sharded: whether layers' parameters are fetched from other devices.
    backend: as JAX names it. The CPU's compiler computes in float32 what is
      declared bfloat16, and undoes rematerialisation outside of scans.
    adapters: for a run that trains these only.
  """
  config = _part_of(config, mesh_shape, rules)
  if backend == "cpu":
    policy = config.remat_policy if config.scan_layers else "none"
    config = dataclasses.replace(config, dtype="float32", remat_policy=policy)
  saved = functools.partial(
    _saved,
    encoder_length=encoder_length,
    decoder_length=decoder_length,
  )

  def plain(encoder_layers: int, decoder_layers: int) -> Saved:
    return saved(
      dataclasses.replace(
        config,
        num_encoder_layers=encoder_layers,
        num_decoder_layers=decoder_layers,
        scan_layers=False,
        remat_policy="none",
      )
    )

  one = plain(1, 1)
  layers = plain(2, 1) - one, plain(1, 2) - one
  # Of these tables the backward pass of the hidden states keeps nothing.
  embedding = (
    config.vocab_size * config.emb_dim * jnp.dtype(config.dtype).itemsize
  )
  outside = one.parameters - sum(layer.parameters for layer in layers)
  outside += embedding * (1 if config.logits_via_embedding else 2)
  return ActivationFormula(
    saved=saved(config, adapters=adapters),
    layer=max(layers, key=lambda layer: layer.per_row),
    layers=config.num_encoder_layers * layers[0].parameters
    + config.num_decoder_layers * layers[1].parameters,
    outside=outside,
    config=config,
    decoder_length=decoder_length,
    logits_at_once=logits_at_once,
    gradients=gradients,
    optimizer=optimizer,
    num_microbatches=num_microbatches,
    fully_sharded=fully_sharded,
  )


def _part_of(
  config: T5Config, mesh_shape: Mapping[str, int], rules: Rules
) -> T5Config:
  """The sizes of what one device computes, where the mesh splits layers."""

  def part(name: str, size: int) -> int:
    entry = next((axes for rule, axes in rules if rule == name), None)
    axes = mesh_axes_of(entry)
    shards = math.prod(mesh_shape[axis] for axis in axes if axis == MODEL_AXIS)
    return -(-size // shards)

  return dataclasses.replace(
    config,
    num_heads=part("heads", config.num_heads),
    mlp_dim=part("mlp", config.mlp_dim),
    vocab_size=part("vocab", config.vocab_size),
  )


@functools.lru_cache(maxsize=64)
def _saved(
  config: T5Config,
  *,
  encoder_length: int,
  decoder_length: int,
  adapters: lora.LoraOptions | None = None,
) -> Saved:
  """What a student's backward pass keeps, told apart by tracing two sizes."""
  model = EncoderDecoderModel(config)
  trained: Any = model
  base = {}
  if adapters is not None:
    trained = lora.LoraModel(model, adapters)
    base = train_state.param_shapes(model)
  params = train_state.param_shapes(trained)

  def left_for_backward_pass(params, base, batch, key):
    student = model if adapters is None else trained.on(base)

    def hidden_states(params):
      return student.hidden_states(params, batch, dropout_key=key)

    return jax.vjp(hidden_states, params)[1]

  def kept(rows):
    batch = {
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
      for name, spec in packed_features.feature_specs(
        rows, encoder_length, decoder_length
      ).items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.make_jaxpr(left_for_backward_pass)(params, base, batch, key)
    return _once(traced.jaxpr)

  known = {leaf.shape for leaf in jax.tree.leaves((params, base))}
  one, two = kept(1), kept(2)
  per_row = whole_bytes(two) - whole_bytes(one)
  # Of a scan, the parameters of all layers come back with the layers in front.
  known |= {(shape[1], shape[0], *shape[2:]) for shape in known if shape[1:]}
  parameters = whole_bytes([leaf for leaf in one if leaf.shape in known])
  return Saved(per_row, whole_bytes(one) - per_row - parameters, parameters)


def _once(jaxpr: core.Jaxpr) -> list[Any]:
  """Shapes and types of a program's results, each array of a scan once.

  Queries, keys and values each keep the same input, as rows of their own; of
  arrays that a scan stacks, the compiler keeps one.
  """
  made_by = _made_by(jaxpr)
  found = {}
  for result in jaxpr.outvars:
    name: Any = id(result)
    eqn, index = made_by.get(name, (None, 0))
    if eqn is not None and eqn.primitive.name == "scan":
      body = eqn.params["jaxpr"].jaxpr
      name = id(eqn), id(_before_reshapes(body.outvars[index], body))
    found.setdefault(name, result.aval)
  return list(found.values())


def _before_reshapes(value: Any, jaxpr: core.Jaxpr) -> Any:
  made_by = _made_by(jaxpr)
  while id(value) in made_by:
    eqn, _ = made_by[id(value)]
    if eqn.primitive.name != "reshape":
      break
    value = eqn.invars[0]
  return value


def _made_by(jaxpr: core.Jaxpr) -> dict[int, tuple[core.JaxprEqn, int]]:
  """By the id of a value, the equation that makes it, and as which result."""
  return {
    id(value): (eqn, index)
    for eqn in jaxpr.eqns
    for index, value in enumerate(eqn.outvars)
  }
