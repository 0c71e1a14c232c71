"""All that watches a run, behind one object."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

import jax

from dss_jax.base import compilations
from dss_jax.base.errors import one_line, printable
from dss_jax.base.progress import Progress
from dss_jax.training.monitoring import time_breakdown
from dss_jax.training.monitoring.metrics_file import MetricsLog, step_values
from dss_jax.training.monitoring.nan_debugger import NanDebugger
from dss_jax.training.monitoring.profiling import ProfilerWindow
from dss_jax.training.monitoring.tensorboard_log import TensorBoardLog
from dss_jax.training.start_or_resume import Setup
from dss_jax.training.trackers import Trackers
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import TrainState

# Characters of an input or output of a sample that are shown.
_SAMPLE_CHARS = 100
# The progress line names what takes this share of the time, or more.
_LARGE_SHARE = 0.1

Batch = Mapping[str, jax.Array]
T = TypeVar("T")


class Monitor:
  """Logs a run, measures its time, counts what it compiles, looks for NaNs.

  Metrics of steps stay on the device until `flush`, so that looking at them
  does not hold the device up. Among several processes, the first one writes.

  Args:
    config: the run.
    setup: what this start of the run works with.
    first_step: steps made before this start.
    evaluation_due: whether the evaluation after them is still to be made.
    breakdown: measures where the time goes; None begins to measure now.
    stream: where progress goes; None writes it to standard error.

  Attributes:
    recompilations: programs compiled by steps and evaluations after the first
      ones of their start, over all starts.
    time: where the time of the last start that made steps went; None before
      the first one ends.
  """

  def __init__(
    self,
    config: TrainConfig,
    setup: Setup,
    first_step: int,
    *,
    evaluation_due: bool = False,
    breakdown: time_breakdown.TimeBreakdown | None = None,
    stream: TextIO | None = None,
  ):
    folder = config.folder
    self.recompilations = int(setup.earlier.get("recompilations", 0))
    self.time: Mapping[str, Any] | None = setup.earlier.get("time")
    self._subtasks = setup.data.subtask_names
    self._slots = setup.data.shape.slots
    self._breakdown = breakdown or time_breakdown.TimeBreakdown()
    self._closing = contextlib.ExitStack()
    profile_steps = config.steps_to_profile()
    if jax.process_index() != 0:
      # The same calls, so that all processes take the same path.
      nowhere = self._closing.enter_context(tempfile.TemporaryDirectory())
      folder, stream = pathlib.Path(nowhere), io.StringIO()
      profile_steps = None
    self._progress = Progress(config.total_steps, first_step, stream=stream)
    # Before files are opened: a package that is missing ends the run.
    self._trackers = Trackers(
      config.trackers if jax.process_index() == 0 else (),
      folder,
      _description(config),
      self.say,
    )
    self._metrics = MetricsLog(
      folder, from_step=first_step, evaluation_due=evaluation_due
    )
    self._tensorboard = TensorBoardLog(folder, from_step=first_step)
    self._profiler = ProfilerWindow(
      profile_steps, folder, first_step=first_step, say=self.say
    )
    self._samples = config.evaluation_cfg.samples
    self._debugger = None
    if config.debug_nans:
      self._debugger = NanDebugger(
        setup.make_step,
        setup.tx,
        subtasks=self._subtasks,
        frozen=setup.base.params if setup.base else None,
      )
    # In reverse; one that cannot be written must not keep the others open.
    for part in (
      self._trackers,
      self._tensorboard,
      self._metrics,
      self._progress,
      self._breakdown,
      self._profiler,
    ):
      self._closing.callback(part.close)
    self._pending: list[tuple[int, Mapping[str, Any]]] = []
    self._compiled_once: set[str] = set()
    self._period_start = time.monotonic()

  def __enter__(self) -> Monitor:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    self._closing.close()

  def say(self, text: str) -> None:
    """Prints a line that stays."""
    self._progress.say(text)

  def check_state(self, state: TrainState) -> None:
    """Looks at the state before the first step, where there is a debugger.

    Raises:
      FloatingPointError: where it is not finite.
    """
    if self._debugger:
      self._debugger.check_state(state)

  # ----------------------------------------------------- what the loop is doing

  def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
    """The time inside counts as `name`, one of `time_breakdown.PHASES`."""
    return self._breakdown.phase(name)

  def batches(self, batches: Iterable[T]) -> Iterator[T]:
    """Yields the batches; waiting for each of them counts as `data`."""
    self._breakdown.switch("host")
    return self._breakdown.waiting("data", batches)

  @contextlib.contextmanager
  def step(self, step: int, state: Any) -> Iterator[None]:
    """Update number `step` of `state` is passed to the devices inside."""
    self._profiler.before(step, state)
    with self._once("step", f"step {step}"):
      self._breakdown.call_step()
      with jax.profiler.StepTraceAnnotation("train", step_num=step):
        yield

  def add_step(
    self, step: int, state: Any, batch: Batch, sums: Mapping[str, Any]
  ) -> None:
    """Takes in the step just made, without waiting for it.

    Args:
      step: its number.
      state: what it returned.
      batch: what it read.
      sums: what it measured, as `train_step` returns it; kept until `flush`.

    Raises:
      FloatingPointError: where a debugger finds that it is not finite.
    """
    self._breakdown.add_step(sums["loss"])
    self._pending.append((step, sums))
    self._profiler.after(step, state)
    if self._debugger:
      self._debugger.check(step, state, batch, sums, say=self.say)

  @contextlib.contextmanager
  def evaluation(self, step: int) -> Iterator[None]:
    """The evaluation after `step` updates happens inside."""
    what = f"the evaluation of step {step}"
    with self.phase("evaluation"), self._once("evaluation", what):
      yield

  @contextlib.contextmanager
  def _once(self, kind: str, what: str) -> Iterator[None]:
    """Only the first of a kind may compile, in each start."""
    before = compilations.count()
    yield
    compiled = compilations.count() - before
    if compiled and kind in self._compiled_once:
      self.recompilations += compiled
      self.say(
        f"{what} was compiled again, as only the first should be: it took"
        " longer for it"
      )
    self._compiled_once.add(kind)

  # ---------------------------------------------------------- what it measured

  def flush(
    self, tokens_seen: int, examples_seen: int, *, leaving: int = 0
  ) -> list[dict[str, float]]:
    """Fetches what is pending and writes a line for each step.

    Args:
      tokens_seen: before the first pending step.
      examples_seen: before the first pending step.
      leaving: so many of the latest steps stay pending, so that the devices
        have something to do meanwhile.

    Returns:
      The values of each step written, as written.
    """
    due = self._pending[: len(self._pending) - leaving]
    if not due:
      return []  # the time until now is that of the steps to come
    self._pending = self._pending[len(due) :]
    steps = [step for step, _ in due]
    fetched = jax.device_get([sums for _, sums in due])
    phases = self._breakdown.take(leaving=leaving)
    now = time.monotonic()
    seconds = (now - self._period_start) / len(steps)
    self._period_start = now
    written = []
    for step, sums in zip(steps, fetched, strict=True):
      values = step_values(sums, self._subtasks, self._slots)
      tokens_seen += int(values["tokens"])
      examples_seen += int(values["examples"])
      values |= {"tokens_seen": tokens_seen, "examples_seen": examples_seen}
      timing: dict[str, Any] = {"unix": time.time(), "step_s": seconds}
      if step == steps[-1]:
        timing["seconds"] = {k: round(v, 6) for k, v in phases.items()}
      self._metrics.write(step, "train", values, timing)
      written.append(values)
    self._show(steps[-1], written, seconds, phases)
    self._metrics.flush()
    return written

  def _show(
    self,
    step: int,
    written: Sequence[Mapping[str, float]],
    seconds: float,
    phases: Mapping[str, float],
  ) -> None:
    """Shows the steps just written, to TensorBoard and as progress."""
    shares = time_breakdown.shares(phases)
    rates = {
      "examples_per_s": _mean(written, "examples") / seconds,
      "tokens_per_s": _mean(written, "tokens") / seconds,
    }
    values = (
      {f"train/{name}": value for name, value in written[-1].items()}
      | {f"timing/{name}": value for name, value in rates.items()}
      | {f"timing/{name}_share": value for name, value in shares.items()}
    )
    self._tensorboard.write(step, values)
    self._trackers.write(step, values)
    shown = {name: _mean(written, name) for name in written[-1]}
    line = summary_line(shown | rates, self._subtasks)
    once = ("compile", "setup")
    self._progress.update(
      step,
      line + _time_note(shares),
      seconds=sum(s for name, s in phases.items() if name not in once),
    )

  def add_evaluation(
    self, step: int, values: Mapping[str, float], seconds: float
  ) -> None:
    """Writes what the evaluation after `step` updates measured."""
    timing = {"unix": time.time(), "evaluation_s": seconds}
    self._metrics.write(step, "eval", values, timing)
    shown = {f"eval/{name}": x for name, x in values.items() if "/" in name}
    self._tensorboard.write(step, shown)
    self._trackers.write(step, shown)
    self._metrics.flush()
    self._tensorboard.flush()
    # Evaluation is no part of a step's time.
    self._period_start += seconds

  def show_predictions(
    self, step: int, task: str, predictions: Sequence[Mapping[str, Any]]
  ) -> None:
    """Shows some of what was predicted: here, in TensorBoard and trackers.

    Args:
      step: updates made before.
      task: what was answered.
      predictions: as in eval/<task>/<step>.jsonl.
    """
    samples = [
      {name: prediction[name] for name in ("input", "target", "prediction")}
      for prediction in predictions[: self._samples]
    ]
    for sample in samples:
      said = {n: one_line(t, longest=_SAMPLE_CHARS) for n, t in sample.items()}
      self.say(
        printable(
          f"  {said['input']} -> {said['prediction']} (gold: {said['target']})"
        )
      )
    if samples:
      name = f"predictions/{task}"
      text = "".join(
        f"    {json.dumps(s, ensure_ascii=False)}\n" for s in samples
      )
      self._tensorboard.write_text(step, name, text)
      self._trackers.write_samples(step, name, samples)

  def sync(self) -> None:
    """Waits until the metrics are on the disk.

    Called before each checkpoint: a run continues from it, and what it had
    measured until then is not measured again.
    """
    self._metrics.sync()

  def end(self, steps: int, tokens: int) -> None:
    """Sums up the time of this start, for people and for `time`.

    Args:
      steps: updates that it made.
      tokens: non-padding tokens that it trained on.
    """
    self._breakdown.take()
    seconds = self._breakdown.total
    self.time = {
      "steps": steps,
      "wall_s": round(sum(seconds.values()), 3),
      "seconds": {name: round(value, 3) for name, value in seconds.items()},
      # Useful ones, while the devices were at work.
      "tokens_per_s": round(tokens / max(seconds["step"], 1e-9), 1),
    }
    self.say(f"time: {time_breakdown.describe(seconds)}")


def _description(config: TrainConfig) -> dict[str, Any]:
  """What a run is made of, for the pages of trackers."""
  return {
    "task": config.train_dataset_cfg.mixture_or_task_name,
    "seed": config.random_seed,
    "total_steps": config.total_steps,
    "model_dir": config.model_dir,
    "config": config.config_text_fn() if config.config_text_fn else "",
  }


def _time_note(shares: Mapping[str, float]) -> str:
  """Where the time goes, in a word or two: `  busy 97%`."""
  others = dict(shares)
  busy = others.pop("step", 0.0)
  name = max(others, key=lambda phase: others[phase], default="")
  share = others.get(name, 0.0)
  rest = f" {name} {100 * share:.0f}%" if share >= _LARGE_SHARE else ""
  return f"  busy {100 * busy:.0f}%{rest}"


def _mean(steps: Sequence[Mapping[str, float]], name: str) -> float:
  return sum(values[name] for values in steps) / len(steps)


def summary_line(values: Mapping[str, float], subtasks: Sequence[str]) -> str:
  """The numbers of a step that fit on a line.

  Args:
    values: as in metrics.jsonl, with `<subtask>/loss`, and `examples_per_s`,
      `tokens_per_s` and `padding` where they are known.
    subtasks: the names of the sub-tasks.
  """
  parts = [f"loss {values['loss']:.3f}"]
  if len(subtasks) > 1:
    parts += [
      f"{name} {values[f'{name}/loss']:.3f}"
      for name in subtasks
      if f"{name}/loss" in values
    ]
  if "examples_per_s" in values:
    parts.append(f"{values['examples_per_s']:.0f} ex/s")
  if "tokens_per_s" in values:
    parts.append(f"{values['tokens_per_s']:,.0f} tok/s")
  if "padding" in values:
    parts.append(f"pad {100 * values['padding']:.0f}%")
  return "  ".join(parts)
