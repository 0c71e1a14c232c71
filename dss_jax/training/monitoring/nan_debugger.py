"""Where a loss or a gradient that is not finite comes from.

A step whose loss or gradient is not finite changes only the number of the step
(see `train_step`), so that the state it began with still exists: the debugger
looks at it, and makes the step again, operation by operation.
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

from dss_jax.training.monitoring import nan_origin
from dss_jax.training.train_state import TrainState
from dss_jax.training.train_step import JittedStep

PyTree = Any

_GRADIENT = "gradient of "
_SHOWN = 3  # names in a line


class NanDebugger:
  """Looks at each step, and ends the run at the first that is not finite.

  It waits for each step, which costs speed.

  Args:
    make_step: makes the jitted step for an optimizer.
    tx: the optimizer.
    subtasks: names of the sub-tasks, in the order of their ids.
    frozen: arrays that a step reads besides its state.
  """

  def __init__(
    self,
    make_step: Callable[[optax.GradientTransformation], JittedStep],
    tx: optax.GradientTransformation,
    *,
    subtasks: Sequence[str],
    frozen: PyTree = None,
  ):
    self._make_step = make_step
    self._tx = tx
    self._subtasks = subtasks
    self._frozen = frozen

  def check_state(self, state: TrainState) -> None:
    """Looks at what the first step reads, which must be finite.

    Raises:
      FloatingPointError: where it is not.
    """
    trees = {
      "parameters": state.params,
      "optimizer state": state.opt_state,
      "frozen parameters": self._frozen,
    }
    for name, tree in trees.items():
      if bad := nonfinite_leaves(tree):
        raise FloatingPointError(
          f"debug_nans: the {name} that the run has after step {state.step} are not"
          f" finite in {_list(bad)}: continue from an earlier checkpoint, or"
          " start from another one"
        )

  def check(
    self,
    step: int,
    state: TrainState,
    batch: Mapping[str, jax.Array],
    sums: Mapping[str, Any],
    *,
    say: Callable[[str], None],
  ) -> None:
    """Looks at the loss and the gradient of a step, and at its new state.

    Args:
      step: its number.
      state: the state after it.
      batch: the batch that it read.
      sums: the sums that it returned.
      say: called with lines for people.

    Raises:
      FloatingPointError: where anything is not finite.
    """
    sums = jax.device_get(dict(sums))
    if int(sums["nonfinite"]):
      self._explain(step, state, batch, sums, say)
    leaves = nonfinite_leaves(
      {"parameters": state.params, "optimizer": state.opt_state}
    )
    if leaves:
      rate = sums.get("learning_rate", np.nan)
      raise FloatingPointError(
        f"debug_nans: step {step} had a finite loss ({sums['loss']:.4g}) and"
        f" gradient (norm {sums['grad_norm']:.4g}), but its update at learning"
        f" rate {rate:.4g} is not finite in {_list(leaves)}: lower the learning"
        " rate, or change the optimizer"
      )

  def _explain(self, step, state, batch, sums, say) -> None:
    say(
      f"step {step} is not finite: loss {sums['loss']:.4g}, gradient norm"
      f" {sums['grad_norm']:.4g}; making it again, operation by operation ..."
    )
    sick = [
      name
      for name, nll in zip(self._subtasks, sums["nll"], strict=True)
      if not np.isfinite(nll)
    ]
    before = state.replace(step=state.step - 1)
    findings = self._find(before, batch)
    gradients = [
      name.removeprefix(_GRADIENT)
      for name in dict.fromkeys(findings.named)
      if name.startswith(_GRADIENT)
    ]
    for line in (
      f"sub-tasks whose loss is not finite: {_list(sick)}",
      f"parameters that are not finite: {_list(nonfinite_leaves(state.params))}",
      f"gradients that are not finite: {_list(gradients)}",
      *map(str, findings.origins),
    ):
      say(f"  {line}")
    origin = "made again without compiling, the step is finite: the compiled"
    origin += " program rounds otherwise, and is at its limits"
    if findings.origins:
      origin = str(findings.origins[0])
    raise FloatingPointError(f"debug_nans: step {step}: {origin}")

  def _find(self, state, batch) -> nan_origin.Findings:
    step_fn = self._make_step(_with_named_gradients(self._tx))
    labels = [
      _GRADIENT + _name(path)
      for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
    ]
    find = functools.partial(nan_origin.find, until=labels)
    return step_fn.run_by(find, state, batch)


def _with_named_gradients(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """The same optimizer; its gradients are labelled by their parameters."""
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
