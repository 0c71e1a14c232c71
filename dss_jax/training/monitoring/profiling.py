"""A window of steps, recorded by JAX's profiler for TensorBoard."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from dss_jax.base.errors import UserError

# Where TensorBoard's profile plugin looks, in its log folder.
_PLUGIN_FOLDER = pathlib.Path("plugins") / "profile"


class ProfilerWindow:
  """Records the steps of a window; other steps cost nothing.

  Steps are passed to the devices before they are computed. At both ends of the
  window the host waits for the devices, so that it holds whole steps, and no
  others.

  Args:
    steps: the steps to record; None records none.
    folder: the run's folder, which is TensorBoard's log folder.
    first_step: steps made before this start.
    say: called with lines for people.
  """

  def __init__(
    self,
    steps: range | None,
    folder: pathlib.Path,
    *,
    first_step: int,
    say: Callable[[str], None],
  ):
    self._folder = folder
    self._say = say
    self._first = self._last = 0  # no step has this number
    self._recording = False
    if steps is None:
      return
    if steps[-1] <= first_step:
      say(
        f"profiler: steps {_named(steps)} are made already, the run continues"
        f" with step {first_step + 1}: nothing is traced"
      )
      return
    self._first, self._last = max(steps[0], first_step + 1), steps[-1]
    if self._first > steps[0]:
      left = range(self._first, self._last + 1)
      say(
        f"profiler: the run continues with step {self._first}; of the steps"
        f" {_named(steps)}, only {_named(left)} will be traced"
      )

  def before(self, step: int, state: Any) -> None:
    """Begins to record if `step` is the first; `state` is what it reads."""
    if step == self._first:
      jax.block_until_ready(state)
      options = jax.profiler.ProfileOptions()
      # Recording every call of a Python function would slow the steps down.
      options.python_tracer_level = 0
      try:
        jax.profiler.start_trace(str(self._folder), profiler_options=options)
      except RuntimeError as error:  # another profile is being recorded
        raise UserError(
          f"profile_steps is set, but the profiler cannot start ({error})",
          fields="TrainConfig.profile_steps",
        ) from error
      self._recording = True
      self._begun, self._ended = step, step - 1

  def after(self, step: int, state: Any) -> None:
    """Ends the record if `step` is the last; `state` is what it returned."""
    if not self._recording:
      return
    self._ended = step
    if step == self._last:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Writes what is recorded, if the run ends within the window."""
    if not self._recording:
      return
    self._recording = False
    jax.profiler.stop_trace()
    if self._ended < self._begun:  # the first step has failed
      return
    traces = (self._folder / _PLUGIN_FOLDER).iterdir()
    newest = max(traces, key=lambda path: path.stat().st_mtime)
    steps = range(self._begun, self._ended + 1)
    self._say(
      f"profiler: step{'s' * (len(steps) > 1)} {_named(steps)} in {newest}; see"
      f" it with `tensorboard --logdir {self._folder}` and its profile plugin, or"
      " open the .trace.json.gz in Perfetto"
    )


def _named(steps: range) -> str:
  last = f" to {steps[-1]}" if len(steps) > 1 else ""
  return f"{steps[0]}{last}"
