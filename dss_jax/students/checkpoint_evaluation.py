"""Evaluates a checkpoint of a finished run: `dss-jax eval`."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from dss_jax.students import student
from dss_jax.training import evaluation, train_config


def evaluate_checkpoint(
  config: train_config.TrainConfig,
  checkpoint: str | int = "best",
  *,
  tasks: Sequence[str] | None = None,
  split: str = "test",
) -> tuple[int, list[evaluation.Scores]]:
  """Decodes and scores tasks with a checkpoint of a run.

  Args:
    config: the run; its `model_dir` holds the checkpoint.
    checkpoint: `best` (by validation), `latest` or a step.
    tasks: names of tasks; None takes those that the run evaluates.
    split: the split of each task.

  Returns:
    The checkpoint's step, and the scores.

  Raises:
    UserError: for a checkpoint, task or split that does not exist.
  """
  train_config.check_vocabulary(config.vocabulary, config.model)
  evaluator = train_config.make_evaluator(config, split, tasks)
  for line in evaluator.describe():
    print(line, file=sys.stderr, flush=True)
  step, params = student.load_params(config, checkpoint)
  if not sys.stderr.isatty():
    return step, evaluator.run(params)
  scores = evaluator.run(params, progress=_show)
  _show("")
  return step, scores


def _show(text: str) -> None:
  """Replaces the terminal's last line with `text`."""
  print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def write_predictions(
  folder: str | pathlib.Path, step: int, scores: Sequence[evaluation.Scores]
) -> None:
  """Writes the predictions under `<folder>/eval`."""
  evaluation.write_predictions(pathlib.Path(folder) / "eval", step, scores)


def as_json(step: int, scores: Sequence[evaluation.Scores]) -> dict[str, Any]:
  """The scores as JSON values, without the predictions."""
  return {
    "checkpoint_step": step,
    "tasks": [
      {
        "task": score.task,
        "split": score.split,
        "n": len(score.predictions),
        **score.metrics,
      }
      for score in scores
    ],
  }


def print_table(step: int, scores: Sequence[evaluation.Scores]) -> None:
  """Prints one line for each metric."""
  from rich import box, console, table

  result = table.Table(
    title=f"checkpoint of step {step}",
    box=box.SIMPLE_HEAD,
    title_justify="left",
  )
  for name in ("task", "split", "metric"):
    result.add_column(name)
  for name in ("value", "n"):
    result.add_column(name, justify="right")
  for score in scores:
    for metric, value in score.metrics.items():
      result.add_row(
        score.task,
        score.split,
        metric,
        f"{value:.4f}",
        str(len(score.predictions)),
      )
  console.Console().print(result)
