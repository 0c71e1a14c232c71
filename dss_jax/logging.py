"""What a run says while it goes on: metrics.jsonl, TensorBoard, progress."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

METRICS_FILE = "metrics.jsonl"

# Everything under this key may differ between two runs of the same
# configuration; nothing else may.
TIME = "time"


class MetricsLog:
  """`metrics.jsonl`: a line for each step and for each evaluation.

  A line is `{"step": 12, "kind": "train", <name>: <value>, ..., "time": {...}}`.
  Opened at a step, it drops what an interrupted run had written beyond it, so
  that every step stands there once.
  """

  def __init__(self, folder: pathlib.Path, *, from_step: int):
    self.path = folder / METRICS_FILE
    self._drop_after(from_step)
    self._file = open(self.path, "a", encoding="utf-8")

  def _drop_after(self, step: int) -> None:
    if not self.path.exists():
      return
    kept = 0
    with open(self.path, "rb") as file:
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
    line = {"step": step, "kind": kind, **values, TIME: dict(timing)}
    self._file.write(json.dumps(line) + "\n")

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def metrics_hash(folder: pathlib.Path) -> str:
  """SHA-256 of metrics.jsonl with the times left out."""
  digest = hashlib.sha256()
  with open(folder / METRICS_FILE, encoding="utf-8") as file:
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
    self._writer = None
    try:
      # The event file writer would import TensorFlow for its file system; the
      # record writer below it does not.
      from tensorboard.compat.proto import event_pb2
      from tensorboard.summary.writer import record_writer
    except ImportError:
      return
    self._event_pb2 = event_pb2
    name = (
        f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
    )
    self._writer = record_writer.RecordWriter(open(folder / name, "ab"))
    self._add(file_version="brain.Event:2")
    # Tells TensorBoard to forget what an interrupted run wrote from here on.
    self._add(
        step=from_step + 1,
        session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
    )

  def _add(self, **fields: Any) -> None:
    event = self._event_pb2.Event(wall_time=time.time(), **fields)
    self._writer.write(event.SerializeToString())

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one point to each of the named curves."""
    if self._writer is None:
      return
    from tensorboard.compat.proto import summary_pb2

    summary = summary_pb2.Summary(
        value=[
            summary_pb2.Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
        ]
    )
    self._add(step=step, summary=summary)

  def flush(self) -> None:
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


class Progress:
  """The progress of a training run: a bar on a terminal, else a line a period.

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
    self._stream = stream or sys.stderr
    self._total = total_steps
    self._first = first_step
    self._start = time.monotonic()
    self._description = description
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
    seconds = time.monotonic() - self._start
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
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def summary_line(
    values: Mapping[str, float], subtasks: Sequence[str]
) -> str:
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
