"""TensorBoard events, written without TensorFlow."""

import os
import pathlib
import platform
import time
from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import writing


class TensorBoardLog:
  """Scalars as TensorBoard event files, written without TensorFlow.

  Where the `tensorboard` package is absent nothing is written; metrics.jsonl
  holds the same numbers.
  """

  def __init__(self, folder: pathlib.Path, *, from_step: int):
    self._writer: Any = None
    try:
      # The event file writer would import TensorFlow for its file system; the
      # record writer underneath does not.
      from tensorboard.compat.proto import (
        event_pb2,
        summary_pb2,
        tensor_pb2,
        types_pb2,
      )
      from tensorboard.summary.writer import record_writer
    except ImportError:
      return
    self._folder = folder
    # The generated modules have no types.
    self._events: Any = event_pb2
    self._summaries: Any = summary_pb2
    self._tensors: Any = tensor_pb2
    self._types: Any = types_pb2
    host = f"{platform.node()}.{os.getpid()}"
    name = f"events.out.tfevents.{int(time.time())}.{host}"
    file = open(folder / name, "ab")  # noqa: SIM115
    self._writer = record_writer.RecordWriter(file)
    self._add(file_version="brain.Event:2")
    # Makes TensorBoard forget what an interrupted run wrote from here on.
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

  def write_text(self, step: int, tag: str, text: str) -> None:
    """Adds a text, as Markdown, to those of the name `tag`."""
    if self._writer is None:
      return
    metadata = self._summaries.SummaryMetadata(
      plugin_data=self._summaries.SummaryMetadata.PluginData(plugin_name="text")
    )
    summary = self._summaries.Summary(
      value=[
        self._summaries.Summary.Value(
          tag=tag,
          metadata=metadata,
          tensor=self._tensors.TensorProto(
            dtype=self._types.DT_STRING, string_val=[text.encode()]
          ),
        )
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
