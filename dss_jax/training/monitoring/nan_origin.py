"""Which operation of a program makes the first value that is not finite.

A compiled program does not show what happens in it. Here its operations run one
by one, and the results of each are looked at. That is slow, and exact about
where a NaN or an infinity comes from and which part of the model makes it,
forward or backward. Operations within calls and within loops of few rounds run
one by one too; those in other control flow run as a whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from dss_jax.models.partitioning import placement

# Primitives that only call a program, and the parameters that may hold it.
_CALLS = frozenset(
  (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "checkpoint",
    "remat",
    "remat2",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
  )
)
_PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_MOST_ROUNDS = 64
# Primitives that return their inputs: where arrays live does not matter here.
_IDENTITIES = frozenset(("sharding_constraint", "optimization_barrier"))
_LIBRARIES = ("jax", "flax", "optax")


@dataclasses.dataclass(frozen=True)
class Origin:
  """An operation on finite numbers whose result is not.

  Attributes:
    kind: `NaN` or `infinity`.
    operation: the name of the JAX primitive.
    part: the part of the model or of its gradient, from JAX's name stack, such
      as `transpose(jvp(decoder))/layers_0/mlp`.
    source: file, line and function; empty where they are unknown.
  """

  kind: str
  operation: str
  part: str
  source: str

  def __str__(self) -> str:
    place = f" at {self.source}" if self.source else ""
    part = f", in {self.part}" if self.part else ""
    return f"the first {self.kind} comes out of `{self.operation}`{place}{part}"


@dataclasses.dataclass(frozen=True)
class Findings:
  """What a run of the program has shown.

  Attributes:
    origins: in the order of the operations, at most one of each kind.
    named: the labels, by `jax.ad_checkpoint.checkpoint_name`, of values that
      are not finite.
    outputs: what the program returned; empty if it was not run to its end.
  """

  origins: Sequence[Origin]
  named: Sequence[str]
  outputs: Sequence[Any]


def find(
  program: Any, arguments: Sequence[Any], *, until: Collection[str] = ()
) -> Findings:
  """Runs a program operation by operation.

  Args:
    program: a `ClosedJaxpr`.
    arguments: its flat arguments.
    until: labels of values; the program ends once all of them were seen. It
      runs to its end without any.
  """
  finder = _Finder(until)
  outputs: Sequence[Any] = ()
  with contextlib.suppress(_EnoughError):
    outputs = finder.run(program.jaxpr, program.consts, arguments, "")
  return Findings(tuple(finder.origins.values()), finder.named, outputs)


class _EnoughError(Exception):
  """Raised once all awaited labels have been seen."""


class _Finder:
  """Runs programs and keeps what their operations show."""

  def __init__(self, until: Collection[str]):
    self.origins: dict[str, Origin] = {}
    self.named: list[str] = []
    self._awaited = set(until)

  def run(
    self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], part: str
  ) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args)))
    last_use = {
      var: i
      for i, eqn in enumerate(jaxpr.eqns)
      for var in (*eqn.invars, *eqn.outvars)
      if not isinstance(var, core.Literal)
    }
    kept = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}

    def read(var: Any) -> Any:
      return var.val if isinstance(var, core.Literal) else values[var]

    for i, eqn in enumerate(jaxpr.eqns):
      inputs = [read(var) for var in eqn.invars]
      outputs = self._apply(eqn, inputs, part)
      values.update(zip(eqn.outvars, outputs))
      for var in (*eqn.invars, *eqn.outvars):
        used = not isinstance(var, core.Literal) and last_use[var] > i
        if not (used or isinstance(var, core.Literal) or var in kept):
          values.pop(var, None)
    return [read(var) for var in jaxpr.outvars]

  def _apply(self, eqn: Any, inputs: list[Any], part: str) -> Sequence[Any]:
    name = eqn.primitive.name
    part = "/".join(filter(None, (part, str(eqn.source_info.name_stack))))
    if name in _IDENTITIES:
      return inputs
    if name in _CALLS:
      for key in _PROGRAMS:
        program = eqn.params.get(key)
        jaxpr = getattr(program, "jaxpr", program)
        if jaxpr is not None and len(jaxpr.invars) == len(inputs):
          return self.run(jaxpr, getattr(program, "consts", ()), inputs, part)
    if name == "cond":
      branch = eqn.params["branches"][int(inputs[0])]
      return self.run(branch.jaxpr, branch.consts, inputs[1:], part)
    if name == "scan" and eqn.params["length"] <= _MOST_ROUNDS:
      return self._scan(eqn, inputs, part)
    outputs = _bind(eqn, inputs)
    self._look(eqn, inputs, outputs, part)
    return outputs

  def _scan(self, eqn: Any, inputs: list[Any], part: str) -> Sequence[Any]:
    program, reverse = eqn.params["jaxpr"], eqn.params["reverse"]
    body = getattr(program, "jaxpr", program)
    # Inputs that are sliced, and outputs that are stacked, have a dimension
    # more outside. Versions of JAX differ in how they write their numbers.
    num_sliced, num_stacked = (
      sum(x.aval.ndim > y.aval.ndim for x, y in zip(outside, inside))
      for outside, inside in (
        (eqn.invars, body.invars),
        (eqn.outvars, body.outvars),
      )
    )
    num_carry = len(body.outvars) - num_stacked
    first = len(body.invars) - num_sliced - num_carry
    consts, carry = inputs[:first], inputs[first : first + num_carry]
    sliced = inputs[first + num_carry :]
    rounds = range(eqn.params["length"])
    collected = []
    for i in reversed(rounds) if reverse else rounds:
      outputs = self.run(
        body,
        getattr(program, "consts", ()),
        [*consts, *carry, *(x[i] for x in sliced)],
        part,
      )
      carry = outputs[:num_carry]
      collected.append(outputs[num_carry:])
    if reverse:
      collected.reverse()
    return [*carry, *(jnp.stack(values) for values in zip(*collected))]

  def _look(
    self, eqn: Any, inputs: list[Any], outputs: Sequence[Any], part: str
  ) -> None:
    if eqn.primitive.name == "name":
      if not all(map(is_finite, outputs)):
        self.named.append(eqn.params["name"])
      if eqn.params["name"] in self._awaited:
        self._awaited.remove(eqn.params["name"])
        if not self._awaited:
          raise _EnoughError
      return
    for kind, test in (("NaN", np.isnan), ("infinity", np.isinf)):
      if kind in self.origins or not any(_any(test, x) for x in outputs):
        continue
      if not any(_any(test, x) for x in inputs):
        self.origins[kind] = Origin(
          kind, eqn.primitive.name, part, _source(eqn.source_info.traceback)
        )


def is_finite(value: Any) -> bool:
  """Whether an array has finite numbers only; integers are always finite."""
  return not (_any(np.isnan, value) or _any(np.isinf, value))


def _any(test: Callable[[np.ndarray], np.ndarray], value: Any) -> bool:
  dtype = getattr(value, "dtype", np.result_type(type(value)))
  if not jnp.issubdtype(dtype, jnp.floating):
    return False
  if isinstance(value, jax.Array):
    value = placement.to_host(value)
  return bool(test(np.asarray(value, np.float32)).any())


def _bind(eqn: Any, inputs: list[Any]) -> Sequence[Any]:
  """Runs one operation as JAX would outside of any program."""
  params = eqn.primitive.get_bind_params(eqn.params)
  functions = ()
  if isinstance(params, tuple):  # before jax 0.10
    functions, params = params
  with getattr(eqn.ctx, "manager", contextlib.nullcontext()):
    bind = functools.partial(eqn.primitive.bind, *functions, **params)
    if eqn.primitive.name == "shard_map":
      # Outside of a program it would have to map all axes of the mesh.
      outputs = jax.jit(lambda *inputs: list(bind(*inputs)))(*inputs)
    else:
      outputs = bind(*inputs)
  return outputs if eqn.primitive.multiple_results else [outputs]


def _source(trace: Any) -> str:
  """The innermost line of code that is not a library's."""
  if trace is None:
    return ""
  frames = traceback.extract_tb(trace.as_python_traceback())
  for frame in reversed(frames):
    if not _is_library(frame.filename):
      file = os.sep.join(pathlib.Path(frame.filename).parts[-3:])
      return f"{file}:{frame.lineno} ({frame.name})"
  return ""


def _is_library(file: str) -> bool:
  """Whether a source file is part of Python, JAX, Flax or Optax."""
  modules = [sys.modules[name] for name in _LIBRARIES if name in sys.modules]
  folders = [os.path.dirname(module.__file__ or "") for module in modules]
  if file.startswith(tuple(f"{folder}{os.sep}" for folder in folders)):
    return True
  standard = os.path.dirname(os.__file__)
  return file.startswith(standard) and "site-packages" not in file
