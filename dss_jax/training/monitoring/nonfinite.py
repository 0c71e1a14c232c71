"""Where a loss or a gradient that is not finite comes from.

A step whose loss or gradient is not finite changes nothing but its number (see
`train_step`), so that the state it began with is still there after it: it can
be looked at, and the step made again, operation by operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.ad_checkpoint import checkpoint_name

from dss_jax.training.monitoring import nonfinite_origin
from dss_jax.training.train_state import TrainState
from dss_jax.training.train_step import JittedStep

PyTree = Any

_GRADIENT = "gradient of "
_SHOWN = 3  # names in a line


class NanDebugger:
  """Looks at each step; at the first that is not finite it ends the run.

  Waits for each step, which costs speed.

  Args:
    make_step: makes the jitted step for an optimizer.
    tx: the optimizer.
    subtasks: names of the sub-tasks, in the order of their ids.
    frozen: arrays that a step reads beside its state.
    say: called with lines for people.
  """

  def __init__(
    self,
    make_step: Callable[[optax.GradientTransformation], JittedStep],
    tx: optax.GradientTransformation,
    *,
    subtasks: Sequence[str],
    frozen: PyTree = None,
    say: Callable[[str], None],
  ):
    self._make_step = make_step
    self._tx = tx
    self._subtasks = subtasks
    self._frozen = frozen
    self._say = say

  def check_state(self, state: TrainState, step: int) -> None:
    """Before the first step: what is read must be finite.

    Raises:
      FloatingPointError: where it is not.
    """
    trees = {"parameters": state.params, "optimizer state": state.opt_state}
    if self._frozen is not None:
      trees["frozen parameters"] = self._frozen
    bad = {name: nonfinite_leaves(tree) for name, tree in trees.items()}
    for name, leaves in bad.items():
      if leaves:
        raise FloatingPointError(
          f"--debug_nans: the {name} that the run goes on with after step"
          f" {step} are not finite in {_list(leaves)}: go on from an earlier"
          " checkpoint, or start from another"
        )

  def check(
    self,
    step: int,
    state: TrainState,
    batch: Mapping[str, jax.Array],
    sums: Mapping[str, Any],
  ) -> None:
    """After a step: looks at its loss, its gradient and what it has made.

    Args:
      step: its number.
      state: after it.
      batch: that it read.
      sums: that it returned.

    Raises:
      FloatingPointError: where anything is not finite.
    """
    sums = jax.device_get(dict(sums))
    if int(sums["nonfinite"]):
      self._explain(step, state, batch, sums)
    leaves = nonfinite_leaves(
      {"parameters": state.params, "optimizer": state.opt_state}
    )
    if leaves:
      rate = sums.get("learning_rate", np.nan)
      raise FloatingPointError(
        f"--debug_nans: step {step} had a finite loss ({sums['loss']:.4g}) and"
        f" gradient (norm {sums['grad_norm']:.4g}), but its update at learning"
        f" rate {rate:.4g} is not finite in {_list(leaves)}: lower"
        " BASE_LEARNING_RATE, or change OPTIMIZER"
      )

  def _explain(self, step, state, batch, sums) -> None:
    self._say(
      f"step {step} is not finite: loss {sums['loss']:.4g}, gradient norm"
      f" {sums['grad_norm']:.4g}; making it again, operation by operation ..."
    )
    sick = [
      name
      for name, nll in zip(self._subtasks, sums["nll"], strict=True)
      if not np.isfinite(nll)
    ]
    before = state.replace(step=state.step - 1)
    found = self._find(before, batch)
    gradients = [
      name.removeprefix(_GRADIENT)
      for name in dict.fromkeys(found.named)
      if name.startswith(_GRADIENT)
    ]
    lines = [
      f"sub-tasks whose loss is not finite: {_list(sick)}",
      f"parameters that are not finite: {_list(nonfinite_leaves(state.params))}",
      f"gradients that are not finite: {_list(gradients)}",
      *map(str, found.origins),
    ]
    for line in lines:
      self._say(f"  {line}")
    origin = (
      f"{found.origins[0]}"
      if found.origins
      else (
        "made again without compiling it is finite: the compiled program rounds"
        " otherwise, and is at its limits"
      )
    )
    raise FloatingPointError(f"--debug_nans: step {step}: {origin}")

  def _find(self, state, batch) -> nonfinite_origin.Findings:
    step_fn = self._make_step(_with_named_gradients(self._tx))
    labels = [
      _GRADIENT + _name(path)
      for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
    ]
    find = functools.partial(nonfinite_origin.find, until=labels)
    return step_fn.run_by(find, state, batch)


def _with_named_gradients(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """The same optimizer; the gradients bear their parameters' names."""
  inner = optax.with_extra_args_support(tx)

  def update(updates, state, params=None, **extra):
    named = jax.tree_util.tree_map_with_path(
      lambda path, x: checkpoint_name(x, f"{_GRADIENT}{_name(path)}"), updates
    )
    return inner.update(named, state, params, **extra)

  return optax.GradientTransformationExtraArgs(inner.init, update)


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def nonfinite_leaves(tree: PyTree) -> list[str]:
  """The paths of the arrays that hold a NaN or an infinity."""
  found = {
    _name(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  }
  if not found:
    return []
  finite = jax.device_get(_finite(list(found.values())))
  return [name for name, good in zip(found, finite, strict=True) if not good]


def _name(path: Sequence[Any]) -> str:
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def _list(names: Sequence[str]) -> str:
  """`a, b, c and 4 more`, or `none`."""
  more = len(names) - _SHOWN
  end = f" and {more} more" if more > 0 else ""
  return ", ".join(names[:_SHOWN]) + end if names else "none"
