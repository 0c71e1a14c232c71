"""What a run says while it goes on: metrics.jsonl, TensorBoard, progress."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from dss_jax.errors import damaged_file, writing

METRICS_FILE = "metrics.jsonl"

# Everything under this key may differ between two runs of the same
# configuration; nothing else may.
TIME = "time"


# Between lines of progress, where no terminal shows a bar.
_SECONDS_BETWEEN_LINES = 5.0


class MetricsLog:
  """`metrics.jsonl`: a line for each step and for each evaluation.

  A line is `{"step": 12, "kind": "train", <name>: <value>, ..., "time": {...}}`;
  a value that is not finite is null.
  Opened at a step, it drops what an interrupted run had written beyond it, so
  that every step stands there once.
  """

  def __init__(self, folder: pathlib.Path, *, from_step: int):
    self.path = folder / METRICS_FILE
    self._drop_after(from_step)
    self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

  def _drop_after(self, step: int) -> None:
    if not self.path.exists():
      return
    kept = 0
    with (
      open(self.path, "rb") as file,
      damaged_file(self.path, "restore it, or give another MODEL_DIR"),
    ):
      for line in file:
        if not line.endswith(b"\n") or json.loads(line)["step"] > step:
          break
        kept += len(line)
    os.truncate(self.path, kept)

  def write(
    self,
    step: int,
    kind: str,
    values: Mapping[str, float],
    timing: Mapping[str, float],
  ) -> None:
    """Appends one line and hands it to the operating system."""
    finite = {
      name: value if math.isfinite(value) else None
      for name, value in values.items()
    }
    line = {"step": step, "kind": kind, **finite, TIME: dict(timing)}
    with writing(self.path):
      self._file.write(json.dumps(line, allow_nan=False) + "\n")

  def flush(self) -> None:
    with writing(self.path):
      self._file.flush()

  def sync(self) -> None:
    """Waits until all lines are on the disk."""
    with writing(self.path):
      self._file.flush()
      os.fsync(self._file.fileno())

  def close(self) -> None:
    with writing(self.path):
      self._file.close()


def metrics_hash(folder: pathlib.Path) -> str:
  """SHA-256 of metrics.jsonl with the times left out."""
  digest = hashlib.sha256()
  path = folder / METRICS_FILE
  with (
    open(path, encoding="utf-8") as file,
    damaged_file(path, "restore it"),
  ):
    for text in file:
      line = json.loads(text)
      line.pop(TIME, None)
      digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
  return digest.hexdigest()


class TensorBoardLog:
  """Scalars as TensorBoard event files, written without TensorFlow.

  Where the `tensorboard` package is absent nothing is written; metrics.jsonl
  holds the same numbers.
  """

  def __init__(self, folder: pathlib.Path, *, from_step: int):
    self._writer: Any = None
    try:
      # The event file writer would import TensorFlow for its file system; the
      # record writer below it does not.
      from tensorboard.compat.proto import event_pb2, summary_pb2
      from tensorboard.summary.writer import record_writer
    except ImportError:
      return
    self._folder = folder
    # The generated modules have no types.
    self._events: Any = event_pb2
    self._summaries: Any = summary_pb2
    host = f"{platform.node()}.{os.getpid()}"
    name = f"events.out.tfevents.{int(time.time())}.{host}"
    file = open(folder / name, "ab")  # noqa: SIM115
    self._writer = record_writer.RecordWriter(file)
    self._add(file_version="brain.Event:2")
    # Tells TensorBoard to forget what an interrupted run wrote from here on.
    start = self._events.SessionLog(status=self._events.SessionLog.START)
    self._add(step=from_step + 1, session_log=start)

  def _add(self, **fields: Any) -> None:
    event = self._events.Event(wall_time=time.time(), **fields)
    with writing(self._folder):
      self._writer.write(event.SerializeToString())

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one point to each of the named curves."""
    if self._writer is None:
      return
    summary = self._summaries.Summary(
      value=[
        self._summaries.Summary.Value(tag=tag, simple_value=value)
        for tag, value in values.items()
      ]
    )
    self._add(step=step, summary=summary)

  def flush(self) -> None:
    if self._writer is not None:
      with writing(self._folder):
        self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      with writing(self._folder):
        self._writer.close()


class Progress:
  """The progress of a training run: a bar on a terminal, else some lines.

  Args:
    total_steps: steps of the whole run.
    first_step: steps made before this start.
    stream: where to write; a bar is drawn only if it is a terminal.
  """

  def __init__(
    self,
    total_steps: int,
    first_step: int = 0,
    *,
    description: str = "train",
    stream: TextIO | None = None,
  ):
    self._stream = sys.stderr if stream is None else stream
    self._total = total_steps
    self._first = first_step
    self._start = time.monotonic()
    self._description = description
    self._printed = -math.inf
    self._bar = None
    if self._stream.isatty():
      self._bar, self._task = self._make_bar(description)
      self._bar.start()

  def _make_bar(self, description: str):
    from rich import console, progress

    bar = progress.Progress(
      progress.TextColumn("{task.description}"),
      progress.BarColumn(bar_width=16),
      progress.MofNCompleteColumn(),
      progress.TextColumn("{task.fields[text]}"),
      progress.TimeRemainingColumn(compact=True),
      console=console.Console(file=self._stream),
    )
    task = bar.add_task(
      description, total=self._total, completed=self._first, text=""
    )
    return bar, task

  def update(self, step: int, text: str) -> None:
    """Shows how far the run is and a short text of what it measures."""
    if self._bar is not None:
      self._bar.update(self._task, completed=step, text=text)
      return
    now = time.monotonic()
    if now - self._printed < _SECONDS_BETWEEN_LINES and step < self._total:
      return
    self._printed = now
    seconds = now - self._start
    done = max(step - self._first, 1)
    remaining = seconds / done * (self._total - step)
    self._print(
      f"{self._description} {step}/{self._total}  {text}"
      f"  {_clock(remaining)} left"
    )

  def say(self, text: str) -> None:
    """Prints a line that stays."""
    if self._bar is not None:
      self._bar.console.print(text, markup=False, highlight=False)
    else:
      self._print(text)

  def _print(self, text: str) -> None:
    print(text, file=self._stream, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
  )


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
    stream: TextIO | None = None,
    writes: bool = True,
  ):
    self._subtasks = tuple(subtasks)
    self._slots = slots
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
    self, tokens_seen: int, examples_seen: int
  ) -> list[dict[str, float]]:
    """Fetches what is pending and writes a line for each step.

    Args:
      tokens_seen: before the first pending step.
      examples_seen: likewise.

    Returns:
      The values of each pending step, as written.
    """
    import jax

    steps = [step for step, _ in self._pending]
    fetched = jax.device_get([sums for _, sums in self._pending])
    self._pending.clear()
    now = time.monotonic()
    seconds = (now - self._period_start) / max(len(steps), 1)
    self._period_start = now
    written = []
    for step, sums in zip(steps, fetched, strict=True):
      values = step_values(sums, self._subtasks, self._slots)
      tokens_seen += int(values["tokens"])
      examples_seen += int(values["examples"])
      values |= {"tokens_seen": tokens_seen, "examples_seen": examples_seen}
      timing = {"unix": time.time(), "step_s": seconds}
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
        | {f"timing/{name}": value for name, value in rates.items()},
      )
      shown = {name: _mean(written, name) for name in last}
      self.progress.update(
        steps[-1], summary_line(shown | rates, self._subtasks)
      )
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
