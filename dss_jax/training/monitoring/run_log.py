"""All that a run writes while it goes on, behind one object."""

import contextlib
import io
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from dss_jax.base.progress import Progress
from dss_jax.training.monitoring.metrics_file import MetricsLog
from dss_jax.training.monitoring.tensorboard_log import TensorBoardLog
from dss_jax.training.monitoring.time_breakdown import TimeBreakdown, shares

# The share of the time from which on what takes it is named.
_WORTH_IT = 0.1


class RunLog:
  """Takes in what each step and each evaluation measured.

  Metrics of steps stay on the device until `flush`, so that looking at them
  does not hold the device up.

  Args:
    folder: the run's folder.
    subtasks: names of the sub-tasks, in the order of their ids.
    slots: encoder and decoder positions of a batch, padding included.
    total_steps: steps of the whole run.
    from_step: steps made before this start.
    breakdown: where the time goes, told with the metrics of steps.
    stream: where progress goes; None writes it to standard error.
    writes: whether this process writes; of several, one does.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    subtasks: Sequence[str],
    *,
    slots: int,
    total_steps: int,
    from_step: int,
    breakdown: TimeBreakdown | None = None,
    stream: TextIO | None = None,
    writes: bool = True,
  ):
    self._subtasks = tuple(subtasks)
    self._slots = slots
    self._breakdown = breakdown
    self._files = contextlib.ExitStack()
    if not writes:
      # The same calls, so that all processes take the same path.
      nowhere = self._files.enter_context(tempfile.TemporaryDirectory())
      folder, stream = pathlib.Path(nowhere), io.StringIO()
    self._metrics = MetricsLog(folder, from_step=from_step)
    self._tensorboard = TensorBoardLog(folder, from_step=from_step)
    self.progress = Progress(total_steps, from_step, stream=stream)
    self._pending: list[tuple[int, Mapping[str, Any]]] = []
    self._period_start = time.monotonic()

  def add_step(self, step: int, sums: Mapping[str, Any]) -> None:
    """Keeps the sums that `train_step` returned for update number `step`."""
    self._pending.append((step, sums))

  def flush(
    self, tokens_seen: int, examples_seen: int, *, leaving: int = 0
  ) -> list[dict[str, float]]:
    """Fetches what is pending and writes a line for each step.

    Args:
      tokens_seen: before the first pending step.
      examples_seen: likewise.
      leaving: so many of the latest steps stay pending, so that the devices
        have something to do meanwhile.

    Returns:
      The values of each step written, as written.
    """
    import jax

    due = self._pending[: len(self._pending) - leaving]
    if not due:
      return []  # the time until now is that of the steps to come
    self._pending = self._pending[len(due) :]
    steps = [step for step, _ in due]
    fetched = jax.device_get([sums for _, sums in due])
    phases = self._breakdown.take(leaving=leaving) if self._breakdown else {}
    now = time.monotonic()
    seconds = (now - self._period_start) / max(len(steps), 1)
    self._period_start = now
    written = []
    for step, sums in zip(steps, fetched, strict=True):
      values = step_values(sums, self._subtasks, self._slots)
      tokens_seen += int(values["tokens"])
      examples_seen += int(values["examples"])
      values |= {"tokens_seen": tokens_seen, "examples_seen": examples_seen}
      timing: dict[str, Any] = {"unix": time.time(), "step_s": seconds}
      if phases and step == steps[-1]:
        timing["seconds"] = {k: round(v, 6) for k, v in phases.items()}
      self._metrics.write(step, "train", values, timing)
      written.append(values)
    if written:
      last = written[-1]
      rates = {
        "examples_per_s": _mean(written, "examples") / seconds,
        "tokens_per_s": _mean(written, "tokens") / seconds,
      }
      self._tensorboard.write(
        steps[-1],
        {f"train/{name}": value for name, value in last.items()}
        | {f"timing/{name}": value for name, value in rates.items()}
        | {f"timing/{name}_share": v for name, v in shares(phases).items()},
      )
      shown = {name: _mean(written, name) for name in last}
      line = summary_line(shown | rates, self._subtasks)
      self.progress.update(steps[-1], line + _time_note(phases))
    self._metrics.flush()
    return written

  def add_evaluation(
    self, step: int, values: Mapping[str, float], seconds: float
  ) -> None:
    """Writes what the evaluation after `step` updates found."""
    timing = {"unix": time.time(), "evaluation_s": seconds}
    self._metrics.write(step, "eval", values, timing)
    self._tensorboard.write(
      step,
      {f"eval/{k}": v for k, v in values.items() if "/" in k},
    )
    self._metrics.flush()
    self._tensorboard.flush()
    # Evaluation is no part of a step's time.
    self._period_start += seconds

  def sync(self) -> None:
    """Waits until the metrics are on the disk.

    Called before each checkpoint: a run goes on from it, and what it had
    measured until then is not measured again.
    """
    self._metrics.sync()

  def close(self) -> None:
    with self._files as closing:
      # A file that cannot be written must not keep the others open.
      closing.callback(self._tensorboard.close)
      closing.callback(self._metrics.close)
      closing.callback(self.progress.close)


def _time_note(phases: Mapping[str, float]) -> str:
  """Where the time goes, in a word or two: `  busy 97%`."""
  if not phases:
    return ""
  share = shares(phases)
  busy = share.pop("step", 0.0)
  name = max(share, key=lambda phase: share[phase])
  rest = f" {name} {100 * share[name]:.0f}%" if share[name] >= _WORTH_IT else ""
  return f"  busy {100 * busy:.0f}%{rest}"


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
  return sum(row[name] for row in rows) / len(rows)


def step_values(
  sums: Mapping[str, Any], subtasks: Sequence[str], slots: int
) -> dict[str, float]:
  """The numbers of one step, from the sums over its batch.

  Args:
    sums: host values of what `train_step` returned.
    subtasks: names of the sub-tasks, in the order of their ids.
    slots: encoder and decoder positions of the batch.

  Returns:
    `loss` (the objective), `<subtask>/loss` (mean nats a token),
    `<subtask>/accuracy` (teacher-forced, of tokens), counts, norms, and
    `padding`, the share of positions without a token.
  """
  values = {"loss": float(sums["loss"])}
  for k, name in enumerate(subtasks):
    tokens = int(sums["tokens"][k])
    values[f"{name}/loss"] = float(sums["nll"][k]) / max(tokens, 1)
    values[f"{name}/accuracy"] = int(sums["correct"][k]) / max(tokens, 1)
    values[f"{name}/tokens"] = tokens
    values[f"{name}/examples"] = int(sums["examples"][k])
  encoder_tokens = int(sums["encoder_tokens"])
  decoder_tokens = int(sums["decoder_tokens"])
  tokens = encoder_tokens + decoder_tokens
  values |= {
    "tokens": tokens,
    "encoder_tokens": encoder_tokens,
    "decoder_tokens": decoder_tokens,
    "examples": sum(int(n) for n in sums["examples"]),
    "padding": 1.0 - tokens / slots,
    "z_loss": float(sums["z_loss"]),
    "grad_norm": float(sums["grad_norm"]),
    "param_norm": float(sums["param_norm"]),
    "learning_rate": float(sums["learning_rate"]),
    "nonfinite": int(sums["nonfinite"]),
  }
  return values


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
