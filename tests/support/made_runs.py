"""Folders of finished runs, without training: their answers are made up.

All else is written by what writes it for a real run: entries of results.jsonl,
predictions, run.json.
"""

import dataclasses
import functools
import json
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import small_runs

from dss_jax.data import pipeline
from dss_jax.data.feeding import training_data
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.datasets import DataOptions
from dss_jax.training import evaluation, results, run_directory
from dss_jax.training.train_state import LoopState

# Target and item number -> an answer.
Answer = Callable[[str, int], str]

_CONFIG = """\
# Macros:
# ======================================================================
BASE_LEARNING_RATE = {rate}
MODEL_DIR = {folder!r}
RANDOM_SEED = {seed}
TRAIN_STEPS = {steps}

# Parameters for DataOptions:
# ======================================================================
DataOptions.data_dir = {data_dir!r}
DataOptions.label_spelling = 'as_is'
DataOptions.taxonli_control = \\
    'none'
"""


def answers(
  accuracy: float,
  *,
  seed: int,
  labels: Sequence[str] = ("entailment", "neutral", "contradiction"),
) -> Answer:
  """Right for the items that are easy enough; the same ones for every run.

  Seeds add a little to the difficulty of each item.
  """
  difficulty = np.random.default_rng(12345).random(100_000)
  luck = np.random.default_rng(seed).normal(0, 0.05, 100_000)

  def answer(target: str, number: int) -> str:
    if difficulty[number] + luck[number] < accuracy:
      return target
    return next(label for label in labels if label != target)

  return answer


def make_run(
  folder: pathlib.Path,
  *,
  dataset: str = "taxonli",
  method: str = "dss",
  seed: int = 0,
  examples: int = 500,
  width: int = 8,
  test: Answer | float = 0.8,
  validation: Answer | float | None = None,
  items: int = 60,
  data: Mapping[str, Any] | None = None,
  config: str | None = None,
  rate: float = 0.04,
  steps: int = 100,
  cell: Mapping[str, Any] | None = None,
  **changes: Any,
) -> pathlib.Path:
  """Writes a finished run.

  Args:
    folder: becomes the run.
    dataset: a registered one.
    method: of the training task.
    seed: of the run; its items are those of other seeds.
    examples: how many records it says that it was trained on.
    width: of the student's embedding.
    test: answers to the test split, or the share of right ones.
    validation: likewise; None takes what the test split has.
    items: test items, and validation items, of built-in data.
    data: further `DataOptions`.
    config: config.gin; None writes some bindings.
    rate: learning rate in config.gin.
    steps: of training.
    cell: cell.json, as a sweep adds it.
    changes: fields of the entries in results.jsonl that are to differ.
  """
  options: dict[str, Any] = {
    "taxonli_num_train": 8,
    "taxonli_num_validation": items,
    "taxonli_num_test": items,
  } | dict(data or {})
  name = f"{dataset}_{method}"
  text = _CONFIG if config is None else config
  if config is None:
    text = text.format(
      rate=rate,
      folder=str(folder),
      seed=seed,
      steps=steps,
      data_dir=options.get("data_dir"),
    )
  settings = small_runs.config(
    folder,
    model=small_runs.LastToken(
      dataclasses.replace(small_runs.SIZES, emb_dim=width, mlp_dim=2 * width)
    ),
    train_dataset_cfg=pipeline.DatasetConfig(
      name,
      {"inputs": 48, "targets": 64},
      records_per_batch=8,
      data=DataOptions(**options),
    ),
    random_seed=seed,
    total_steps=steps,
    config_text_fn=lambda: text,
  )
  shape = BatchShape(4, 64, 32, 8)
  batches: Any = types.SimpleNamespace(shape=shape)
  trained = training_data.TrainingData(name, "made up", (), examples, batches)
  scores = []
  for split, wanted in (
    ("validation", test if validation is None else validation),
    ("test", test),
  ):
    if isinstance(wanted, int | float):
      wanted = answers(float(wanted), seed=seed)
    scores.append(_score(name, split, tuple(options.items()), wanted))
  loop = LoopState(encoder_tokens=900 * steps, decoder_tokens=100 * steps)
  entries = results.result_entries(
    settings, trained, scores, steps=steps, checkpoint_step=steps, loop=loop
  )
  evaluation.write_predictions(folder / "eval", steps, scores)
  run_directory.write_jsonl(
    folder / results.RESULTS_FILE, [entry | changes for entry in entries]
  )
  machine = run_directory.describe_machine() | {
    "num_parameters": results.num_parameters(settings.model)
  }
  (folder / "run.json").write_text(json.dumps(machine))
  if text:
    (folder / "config.gin").write_text(text)
  if cell is not None:
    (folder / "cell.json").write_text(json.dumps(cell))
  return folder


@functools.lru_cache
def _task(name: str, split: str, options: tuple) -> pipeline.EvaluationTask:
  config = pipeline.DatasetConfig(
    name, {"inputs": 48, "targets": 64}, data=DataOptions(**dict(options))
  )
  return pipeline.load_evaluations(
    name, split, small_runs.VOCABULARY, config, labels_only=True
  )[0]


def _score(
  name: str, split: str, options: tuple, answer: Answer
) -> evaluation.Scores:
  """As `evaluation.Evaluator` has it, with answers that nobody decoded."""
  task = _task(name, split, options)
  given = [answer(target, i) for i, target in enumerate(task.targets)]
  correct = task.correct(given) or [None] * len(task)
  return evaluation.Scores(
    task.name,
    task.split,
    task.score(given),
    [
      {
        "id": task.ids[i],
        "input": task.input_texts[i],
        "target": task.targets[i],
        "prediction": given[i],
        "correct": correct[i],
        "output": given[i],
        "log_prob": -1.0,
      }
      for i in range(len(task))
    ],
  )
