"""Finishing a run: the selected checkpoint is scored, the test split once."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dss_jax.base.errors import damaged_file
from dss_jax.models import abstract_params
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training import results, run_directory
from dss_jax.training.loop_state import LoopState
from dss_jax.training.run_setup import Setup
from dss_jax.training.train_config import TrainConfig

PyTree = Any


def score_selected(
  config: TrainConfig,
  folder: pathlib.Path,
  checkpoints: checkpoints_lib.Checkpoints,
  setup: Setup,
  *,
  step: int,
  loop: LoopState,
  student_params: Callable[[PyTree], PyTree],
) -> tuple[int, Sequence[dict[str, Any]]]:
  """Writes results.jsonl, unless an earlier start wrote it after `step`.

  Args:
    config: the run.
    folder: its folder.
    checkpoints: those in it, all written.
    setup: what the run began with.
    step: updates made.
    loop: what the loop remembers at the end.
    student_params: the whole student's parameters, from those that are trained.

  Returns:
    The step of the selected checkpoint, and the rows of results.jsonl.
  """
  best = checkpoints.resolve_step("best")
  rows: Sequence[dict[str, Any]] = _finished_rows(config, folder, step)
  if rows:
    return best, rows
  params = student_params(
    checkpoints.restore_params(
      best,
      abstract_params.with_shardings(
        abstract_params.param_shapes(setup.model), setup.shardings.params
      ),
    )
  )
  rows = []
  for evaluator in setup.evaluators:
    scores = evaluator.run(params)
    if jax.process_index() == 0:
      evaluation_lib.write_predictions(folder / "eval", best, scores)
    rows += results.result_rows(
      config,
      setup.data,
      scores,
      steps=step,
      checkpoint_step=best,
      loop=loop,
    )
  if jax.process_index() == 0:
    run_directory.write_jsonl(folder / "results.jsonl", rows)
  return best, rows


def _finished_rows(
  config: TrainConfig, folder: pathlib.Path, step: int
) -> list[dict[str, Any]]:
  """The rows that an earlier start wrote after `step`, if they are whole."""
  evaluation = config.evaluation_cfg
  wanted = set(filter(None, (evaluation.split, evaluation.test_split)))
  rows = run_directory.read_jsonl(folder / "results.jsonl")
  with damaged_file(folder / "results.jsonl", "delete it"):
    splits = {row["split"] for row in rows}
    steps = {row["steps"] for row in rows}
  return rows if steps == {step} and splits == wanted else []
