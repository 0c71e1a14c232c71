"""`metrics.jsonl`: what every step and evaluation measured, and its hash."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping

from dss_jax.base.errors import damaged_file, writing

METRICS_FILE = "metrics.jsonl"

# Everything under this key may differ between two runs of the same
# configuration; nothing else may.
TIME = "time"


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
    timing: Mapping[str, float | Mapping[str, float]],
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
