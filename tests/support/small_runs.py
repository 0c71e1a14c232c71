"""Runs that take a moment: a tiny student on a few built-in records."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from small_models import SMALL

from dss_jax import vocabularies
from dss_jax.base import named_trees
from dss_jax.data import pipeline
from dss_jax.datasets import DataOptions
from dss_jax.models import decode_cache, partitioning
from dss_jax.models.config import T5Config
from dss_jax.training import (
  checkpoints,
  evaluation,
  optimizers,
  run_directory,
)
from dss_jax.training.optimizers import schedules
from dss_jax.training.train_config import TrainConfig

VOCABULARY = vocabularies.from_name("taxonli")
SIZES = dataclasses.replace(SMALL, vocab_size=VOCABULARY.vocab_size)


class LastToken:
  """A student of an embedding and a kernel; it compiles in a moment.

  It sees the last token only, and adds adapters to its kernel.
  """

  def __init__(self, config: T5Config):
    self.config = config

  def init(self, key):
    shape = (self.config.vocab_size, self.config.mlp_dim)
    keys = jax.random.split(key)
    kernel = 0.1 * jax.random.normal(keys[1], shape[::-1])
    return {
      "embedding": jax.random.normal(keys[0], shape),
      "output": {"kernel": kernel},
    }

  def param_axes(self):
    kernel = ("embed", "vocab")
    return {"embedding": kernel[::-1], "output": {"kernel": kernel}}

  def hidden_states(self, params, batch, *, dropout_key=None):
    del dropout_key
    return params["embedding"][batch["decoder_input_tokens"]]

  def logits(self, params, hidden):
    output = params["output"]
    logits = hidden @ output["kernel"]
    if "lora_a" in output:
      logits += hidden @ output["lora_a"] @ output["lora_b"]
    return logits

  def encode(self, params, tokens):
    return params["embedding"][tokens[:, :1]]

  def init_cache(self, params, encoded, tokens, length):
    del params, tokens
    return decode_cache.DecodeCache(
      index=jnp.zeros((), jnp.int32),
      per_sequence=[encoded],
      per_example=(),
      step_biases=jnp.zeros((1, 2 * length - 1)),
    )

  def decode_step(self, params, cache, tokens):
    return self.logits(params, params["embedding"][tokens]), cache


def config(folder: pathlib.Path, **changes: Any) -> TrainConfig:
  """A run on 64 records, 8 a batch, on one device."""
  settings = {
    "model": LastToken(SIZES),
    "model_dir": str(folder),
    "vocabulary": VOCABULARY,
    "optimizer": optimizers.AdamW(),
    "learning_rate_fn": schedules.create_learning_rate_scheduler(
      "constant", base_learning_rate=0.05
    ),
    "train_dataset_cfg": pipeline.DatasetConfig(
      "taxonli_dss",
      {"inputs": 48, "targets": 64},
      records_per_batch=8,
      data=DataOptions(
        taxonli_num_train=64, taxonli_num_validation=16, taxonli_num_test=24
      ),
    ),
    "evaluation_cfg": evaluation.EvaluationConfig(batch_size=16),
    "partitioner": partitioning.Partitioner(devices=jax.devices()[:1]),
    "total_steps": 8,
  }
  return TrainConfig(**(settings | changes))


def fingerprint(folder: pathlib.Path) -> tuple[str, ...]:
  """What must not depend on how often a run was interrupted."""
  with checkpoints.Checkpoints(folder, read_only=True) as saved:
    step = saved.resolve_step("latest")
    tree, loop = saved.restore_numpy(step), saved.loop_state(step)
  loop.pop("wall_s")
  return (
    str(step),
    named_trees.tree_hash(tree["params"]),
    named_trees.tree_hash(tree["opt_state"]),
    json.dumps(loop, sort_keys=True),
    run_directory.metrics_hash(folder),
  )
