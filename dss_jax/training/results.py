"""Rows of results.jsonl: a score with everything needed to compare it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax

from dss_jax import datasets
from dss_jax.data.feeding import training_data
from dss_jax.data.pairs import subtasks
from dss_jax.models import abstract_params, encoder_decoder, flops
from dss_jax.training import evaluation, run_directory
from dss_jax.training.loop_state import LoopState
from dss_jax.training.train_config import TrainConfig


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


def _rationale_source(
  own: subtasks.TaskName | None, options: datasets.DataOptions
) -> str | None:
  """Who wrote the rationales that the method trains on."""
  if own is None or not any(s.uses_rationale for s in own.method.subtasks):
    return None
  return datasets.rationale_source(own.dataset, options)


def result_rows(
  config: TrainConfig,
  data: training_data.TrainingData,
  scores: Sequence[evaluation.Scores],
  *,
  steps: int,
  checkpoint_step: int,
  loop: LoopState,
) -> list[dict[str, Any]]:
  """One row for each metric of each task.

  Args:
    config: the run.
    data: what it was trained on.
    scores: the final evaluation.
    steps: updates made.
    checkpoint_step: the step that is scored.
    loop: what its loop remembered at the end.
  """
  dataset = config.train_dataset_cfg
  own = subtasks.parse_task_name(dataset.mixture_or_task_name)
  text = config.config_text_fn() if config.config_text_fn else ""
  common = {
    "dataset": own.dataset if own else dataset.mixture_or_task_name,
    "method": own.method.name if own else None,
    "student": student_name(config.model)
    + (f" lora{config.lora.rank}" if config.lora else ""),
    "init": config.initial_checkpoint_path or "random",
    "label_source": own.label_source if own else None,
    "rationale_source": _rationale_source(own, dataset.data),
    "train_fraction": dataset.data.train_fraction if own else None,
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
      "n": len(score.rows),
      "checkpoint_step": checkpoint_step,
      "selected_by": f"{selection.split} {selecting_metric}",
      "config_sha": run_directory.config_sha(text),
    }
    for score in scores
    for metric, value in score.metrics.items()
  ]
