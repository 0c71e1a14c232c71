"""What a backward pass needs of its forward pass, by tracing a student.

A trace takes a second and no memory.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.extend import core

from dss_jax.data.packing import packed_features
from dss_jax.models import abstract_params, lora
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.planning import memory


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


@functools.lru_cache(maxsize=64)
def trace(
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
    base = abstract_params.param_shapes(model)
  params = abstract_params.param_shapes(trained)

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
    return _distinct(_opened(traced))

  known = {leaf.shape for leaf in jax.tree.leaves((params, base))}
  one, two = kept(1), kept(2)
  per_row = memory.whole_bytes(two) - memory.whole_bytes(one)
  # Of a scan, the parameters of all layers come back with the layers in front.
  known |= {(shape[1], shape[0], *shape[2:]) for shape in known if shape[1:]}
  parameters = memory.whole_bytes([leaf for leaf in one if leaf.shape in known])
  return Saved(
    per_row, memory.whole_bytes(one) - per_row - parameters, parameters
  )


def _distinct(jaxpr: core.Jaxpr) -> list[Any]:
  """Shapes and types of a program's results, without those that only reshape.

  Queries, keys and values each keep the same input, as rows of their own: for
  the compiler they are one array.
  """
  made_by = _made_by(jaxpr)
  found = {}
  for result in jaxpr.outvars:
    origin = _before_reshapes(result, made_by)
    source: Any = id(origin)
    eqn, index = made_by.get(id(origin), (None, 0))
    if eqn is not None and eqn.primitive.name == "scan":
      body = _opened(eqn.params["jaxpr"])
      part: Any = body.outvars[index]
      # Else it is the last of them.
      stacked = part.aval.ndim < origin.aval.ndim
      source = id(eqn), stacked, id(_before_reshapes(part, _made_by(body)))
    found.setdefault(source, result.aval)
  return list(found.values())


def _opened(jaxpr: Any) -> core.Jaxpr:
  """Without its constants, where JAX still has it hold them apart."""
  return getattr(jaxpr, "jaxpr", jaxpr)


_MadeBy = dict[int, tuple[core.JaxprEqn, int]]


def _before_reshapes(value: Any, made_by: _MadeBy) -> Any:
  while id(value) in made_by:
    eqn, _ = made_by[id(value)]
    if eqn.primitive.name != "reshape":
      break
    value = eqn.invars[0]
  return value


def _made_by(jaxpr: core.Jaxpr) -> _MadeBy:
  """By the id of a value, the equation that makes it, and as which result."""
  return {
    id(value): (eqn, index)
    for eqn in jaxpr.eqns
    for index, value in enumerate(eqn.outvars)
  }
