"""Evaluation by decoding: inputs in, predictions and scores out.

An `EvaluationTask` is a list of tokenised inputs with targets and a way to
score; it comes from dss_jax's own datasets without TensorFlow, or from any
SeqIO Task. A `Generator` decodes lists of token ids in a few fixed shapes; an
`Evaluator` puts both together and writes what was predicted.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dss_jax import decoding, partitioning, run_directory
from dss_jax.data import batches as batches_lib
from dss_jax.data import pipeline, vocabularies
from dss_jax.errors import UserError
from dss_jax.models import encoder_decoder

PyTree = Any


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What is scored while a student trains.

  Attributes:
    tasks: registered names; None takes the tasks that write labels among those
      of the training mixture (`svamp_dss` -> `svamp_label`).
    split: the split that selects the best checkpoint.
    metric: the metric that selects; None takes the first task's first one.
    max_examples: how many examples of each task; None takes all.
    batch_size: sequences decoded together.
    decode: how to decode.
    test_split: scored once, after training, at the selected checkpoint; None
      leaves it out.
  """

  tasks: Sequence[str] | None = None
  split: str = "validation"
  metric: str | None = None
  max_examples: int | None = None
  batch_size: int = 128
  decode: decoding.DecodeOptions = dataclasses.field(
      default_factory=decoding.DecodeOptions
  )
  test_split: str | None = "test"


class Generator:
  """Decodes token lists with one student on one mesh.

  Compiled once for each shape; the shapes are few (see
  `batches.padded_batches`).
  """

  def __init__(
      self,
      model: encoder_decoder.EncoderDecoderModel,
      partitioner: partitioning.Partitioner,
      options: decoding.DecodeOptions,
      *,
      batch_size: int,
  ):
    shards = partitioner.num_data_shards
    self.model = model
    self.partitioner = partitioner
    self.options = options
    self.batch_size = -(-batch_size // shards) * shards
    self._generate = jax.jit(
        self._generate_tokens, static_argnames=("max_decode_length",)
    )

  def _generate_tokens(
      self,
      params: PyTree,
      encoder_input_tokens: jax.Array,
      key: jax.Array,
      *,
      max_decode_length: int,
  ) -> tuple[jax.Array, jax.Array]:
    encoded = self.model.encode(params, encoder_input_tokens)
    cache = self.model.init_cache(
        params, encoded, encoder_input_tokens, max_decode_length
    )
    step = functools.partial(self.model.decode_step, params)
    return decoding.decode(
        step, cache, self.options, max_decode_length=max_decode_length, key=key
    )

  def __call__(
      self,
      params: PyTree,
      inputs: Sequence[Sequence[int]],
      *,
      max_decode_length: int,
      seed: int = 0,
      progress: Callable[[int], None] | None = None,
  ) -> tuple[list[list[int]], np.ndarray]:
    """The best output of each input.

    Args:
      params: the student's parameters, on the partitioner's mesh.
      inputs: token ids of each example, EOS included.
      max_decode_length: longest output, in tokens.
      seed: of sampling, where the options sample.
      progress: called with the number of examples done.

    Returns:
      Output ids of each input (EOS and padding cut off), in input order, and
      their scores [num_examples] float32 (log-probabilities as decoded).
    """
    outputs: list[list[int]] = [[] for _ in inputs]
    scores = np.zeros(len(inputs), np.float32)
    key = jax.random.key(seed)
    done = 0
    with self.partitioner.activate():
      for index, batch in enumerate(
          batches_lib.padded_batches(inputs, self.batch_size)
      ):
        tokens = self.partitioner.put_batch(
            {"encoder_input_tokens": batch.tokens}
        )["encoder_input_tokens"]
        decoded, decoded_scores = partitioning.to_host(
            self._generate(
                params,
                tokens,
                jax.random.fold_in(key, index),
                max_decode_length=max_decode_length,
            )
        )
        for row, example in enumerate(batch.indices):
          outputs[example] = _until_eos(decoded[row])
          scores[example] = decoded_scores[row]
        done += len(batch.indices)
        if progress:
          progress(done)
    return outputs, scores


def _until_eos(tokens: np.ndarray) -> list[int]:
  ends = np.flatnonzero(
      (tokens == vocabularies.EOS_ID) | (tokens == vocabularies.PAD_ID)
  )
  return tokens[: ends[0] if ends.size else None].tolist()


@dataclasses.dataclass(frozen=True)
class Scores:
  """What one evaluation found.

  Attributes:
    task: the task's name.
    split: the split.
    metrics: name -> value, the one that counts first.
    rows: what eval/<task>/<step>.jsonl holds, in the data's order.
  """

  task: str
  split: str
  metrics: Mapping[str, float]
  rows: Sequence[Mapping[str, Any]]


class Evaluator:
  """Scores a student on tasks by decoding.

  Attributes:
    generator: decodes.
    vocabulary: turns ids into text.
    tasks: `examples.Evaluation`s or `materialize.SeqioEvaluation`s.
  """

  def __init__(
      self,
      generator: Generator,
      vocabulary: vocabularies.Vocabulary,
      tasks: Sequence[pipeline.EvaluationTask],
  ):
    self.generator = generator
    self.vocabulary = vocabulary
    self.tasks = list(tasks)

  def run(
      self, params: PyTree, *, progress: Callable[[str], None] | None = None
  ) -> list[Scores]:
    """Decodes and scores every task, in their order.

    Args:
      params: the student's parameters, on the generator's mesh.
      progress: called with a short text now and then.
    """
    return [self._run_task(params, task, progress) for task in self.tasks]

  def _run_task(self, params, task, progress) -> Scores:
    def report(done: int) -> None:
      if progress:
        progress(f"{task.name} {task.split} {done}/{len(task)}")

    outputs, log_probs = self.generator(
        params,
        task.inputs,
        max_decode_length=decode_length(task.longest_target),
        progress=report,
    )
    decoded = [self.vocabulary.decode(output) for output in outputs]
    predictions = task.predictions(decoded)
    correct = task.correct(predictions) or [None] * len(task)
    rows = [
        {
            "id": task.ids[i],
            "input": task.input_texts[i],
            "target": task.targets[i],
            "prediction": predictions[i],
            "correct": correct[i],
            "output": decoded[i],
            "log_prob": round(float(log_probs[i]), 5),
        }
        for i in range(len(task))
    ]
    return Scores(task.name, task.split, task.score(predictions), rows)


def decode_length(longest_target: int) -> int:
  """How long outputs may get: a quarter above the longest target, in tokens.

  Rounded up to eights, so that splits of a dataset share compiled programs.
  """
  return -(-int(1.25 * longest_target) // 8) * 8


def write_predictions(
    folder: pathlib.Path, step: int, scores: Sequence[Scores]
) -> None:
  """Writes `<folder>/<task>/<step>.jsonl`; other splits than validation get
  their name appended to the task's."""
  for score in scores:
    suffix = "" if score.split == "validation" else f"-{score.split}"
    run_directory.write_jsonl(
        folder / f"{score.task}{suffix}" / f"{step}.jsonl", score.rows
    )


def flat_metrics(scores: Sequence[Scores]) -> dict[str, float]:
  """`<task>/<split>/<metric>` -> value, for metrics.jsonl and TensorBoard."""
  return {
      f"{score.task}/{score.split}/{metric}": value
      for score in scores
      for metric, value in score.metrics.items()
  }


def selection_value(scores: Sequence[Scores], metric: str | None) -> float:
  """The number that selects the best checkpoint; larger is better.

  Raises:
    UserError: where no task has the metric.
  """
  first = scores[0].metrics
  if metric is None:
    return next(iter(first.values()))
  for score in scores:
    if metric in score.metrics:
      return score.metrics[metric]
  raise UserError(
      f"EvaluationConfig.metric is {metric!r}; the evaluated tasks have"
      f" {', '.join(first)}"
  )
