"""`metrics.jsonl`: what every step and evaluation measured."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.base import plain_files
from dss_jax.base.errors import damaged_file, writing
from dss_jax.training.run_directory import METRICS_FILE, TIME


class MetricsLog:
  """`metrics.jsonl`: a line for each step and for each evaluation.

  A line is `{"step": 12, "kind": "train", <name>: <value>, ..., "time": {...}}`;
  a value that is not finite is null. Opened at a step, the file loses what an
  interrupted run had written beyond it, so that it holds every step once; and,
  where that is still due, the evaluation of the step.
  """

  def __init__(
    self, folder: pathlib.Path, *, from_step: int, evaluation_due: bool = False
  ):
    self.path = folder / METRICS_FILE
    self._drop_after(from_step, keep_evaluation=not evaluation_due)
    self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

  def _drop_after(self, step: int, *, keep_evaluation: bool) -> None:
    if not self.path.exists():
      return
    kept = 0
    with damaged_file(self.path, "restore it, or choose another model_dir"):
      plain_files.check(self.path)
      with open(self.path, "rb") as file:
        for line in file:
          if not line.endswith(b"\n"):
            break
          found = json.loads(line)
          if (found["step"], found["kind"] == "eval") > (step, keep_evaluation):
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
    `<subtask>/accuracy` (teacher-forced, of tokens), `<subtask>/weight` (in the
    objective), counts, norms, `padding`, the share of positions without a
    token, and what a loss of pairs adds, with their number.
  """
  values: dict[str, float] = {"loss": float(sums["loss"])}
  for k, name in enumerate(subtasks):
    tokens = int(sums["tokens"][k])
    values[f"{name}/loss"] = float(sums["nll"][k]) / max(tokens, 1)
    values[f"{name}/accuracy"] = int(sums["correct"][k]) / max(tokens, 1)
    values[f"{name}/weight"] = float(sums["subtask_weights"][k])
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
  if "aux_loss" in sums:
    values["aux_loss"] = float(sums["aux_loss"])
    values["pairs"] = int(sums["pairs"])
  return values
