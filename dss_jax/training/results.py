"""results.jsonl: the selected checkpoint's scores, and what to compare them by.

The test split is scored here, once, after training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax

from dss_jax import datasets
from dss_jax.base.errors import damaged_file
from dss_jax.data.feeding import training_data
from dss_jax.data.pairs import task_names
from dss_jax.models import abstract_params, encoder_decoder, flops
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training import lora_runs, run_directory
from dss_jax.training.start_or_resume import Setup
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import LoopState

RESULTS_FILE = "results.jsonl"


def score_selected(
  config: TrainConfig,
  checkpoints: checkpoints_lib.Checkpoints,
  setup: Setup,
  loop: LoopState,
  step: int,
) -> tuple[int, Sequence[dict[str, Any]]]:
  """Writes results.jsonl, unless an earlier start wrote it after `step`.

  Args:
    config: the run.
    checkpoints: those of the run, all written.
    setup: what the run works with.
    loop: what the loop remembers at the end.
    step: updates made.

  Returns:
    The step of the selected checkpoint, and the entries of results.jsonl.
  """
  best = checkpoints.resolve_step("best")
  entries = _finished_entries(config, step)
  if entries:
    return best, entries
  params = lora_runs.restore_student(config, checkpoints, best, setup.base)
  for evaluator in setup.evaluators:
    scores = evaluator.run(params)
    if jax.process_index() == 0:
      evaluation_lib.write_predictions(config.folder / "eval", best, scores)
    entries += result_entries(
      config,
      setup.data,
      scores,
      steps=step,
      checkpoint_step=best,
      loop=loop,
    )
  if jax.process_index() == 0:
    run_directory.write_jsonl(config.folder / RESULTS_FILE, entries)
  return best, entries


def _finished_entries(config: TrainConfig, step: int) -> list[dict[str, Any]]:
  """What an earlier start wrote after `step`, if all of it is there."""
  evaluation = config.evaluation_cfg
  wanted = set(filter(None, (evaluation.split, evaluation.test_split)))
  path = config.folder / RESULTS_FILE
  entries = run_directory.read_jsonl(path)
  with damaged_file(path, "delete it"):
    splits = {entry["split"] for entry in entries}
    steps = {entry["steps"] for entry in entries}
  return entries if steps == {step} and splits == wanted else []


def result_entries(
  config: TrainConfig,
  data: training_data.TrainingData,
  scores: Sequence[evaluation_lib.Scores],
  *,
  steps: int,
  checkpoint_step: int,
  loop: LoopState,
) -> list[dict[str, Any]]:
  """An entry for each metric of each task.

  Args:
    config: the run.
    data: what it was trained on.
    scores: the final evaluation.
    steps: updates made.
    checkpoint_step: the step that is scored.
    loop: what its loop remembered at the end.
  """
  dataset = config.train_dataset_cfg
  task = task_names.parse_task_name(dataset.mixture_or_task_name)
  text = config.config_text_fn() if config.config_text_fn else ""
  common = {
    "dataset": task.dataset if task else dataset.mixture_or_task_name,
    "method": task.method.name if task else None,
    "student": student_name(config.model)
    + (f" lora{config.lora.rank}" if config.lora else ""),
    "init": config.initial_checkpoint_path or "random",
    "label_source": task
    and datasets.label_source(task.dataset, dataset.data, task.label_source),
    "rationale_source": _rationale_source(task, dataset.data),
    "train_fraction": dataset.data.train_fraction if task else None,
    "train_examples": data.num_records,
    "seed": config.random_seed,
    "steps": steps,
    "batch_rows": data.shape.rows,
    "records_per_batch": data.shape.records_per_batch,
    "tokens_seen": loop.tokens_seen,
    "train_flops": flops.training_flops(
      config.model.config,
      loop.encoder_tokens,
      loop.decoder_tokens,
      frozen=config.lora is not None,
    ),
    "wall_s": round(loop.wall_s, 1),
  }
  selection = config.evaluation_cfg
  selecting_metric = selection.metric or next(iter(scores[0].metrics))
  return [
    common
    | {
      "task": score.task,
      "split": score.split,
      "metric": metric,
      "value": value,
      "n": len(score.predictions),
      "checkpoint_step": checkpoint_step,
      "selected_by": f"{selection.split} {selecting_metric}",
      "config_sha": run_directory.config_sha(text),
    }
    for score in scores
    for metric, value in score.metrics.items()
  ]


def _rationale_source(
  task: task_names.TaskName | None, options: datasets.DataOptions
) -> str | None:
  """Who wrote the rationales that the method trains on."""
  if task is None or not any(s.uses_rationale for s in task.method.subtasks):
    return None
  return datasets.rationale_source(task.dataset, options)


def num_parameters(model: encoder_decoder.EncoderDecoderModel) -> int:
  """How many parameters a student has."""
  return sum(
    math.prod(leaf.shape)
    for leaf in jax.tree.leaves(abstract_params.param_shapes(model))
  )


def student_name(model: encoder_decoder.EncoderDecoderModel) -> str:
  """A name for a student's size, such as `t5_1_1 768x12+12 248M`."""
  config = model.config
  family = "t5_1_1" if len(config.mlp_activations) > 1 else "t5_1_0"
  count = num_parameters(model)
  digits = f"{count / 1e6:.3g}M" if count < 1e9 else f"{count / 1e9:.3g}B"
  return (
    f"{family} {config.emb_dim}x{config.num_encoder_layers}"
    f"+{config.num_decoder_layers} {digits}"
  )
