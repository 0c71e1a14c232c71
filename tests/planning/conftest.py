"""Runs as shapes, of students of five sizes."""

from typing import Any

import jax.numpy as jnp
import pytest

from dss_jax import vocabularies
from dss_jax.data import pipeline
from dss_jax.data.packing import packing_plans
from dss_jax.models import config, encoder_decoder, lora
from dss_jax.models.partitioning import Partitioner
from dss_jax.planning import abstract_run
from dss_jax.training import optimizers, train_config

SIZES: dict[str, dict[str, Any]] = {
  # Everything divides by eight, but numbers of layers tell stacks apart.
  "tiny": {
    "vocab_size": 224,
    "emb_dim": 32,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "head_dim": 16,
    "mlp_dim": 96,
  },
  # models/taxonli.gin, bench.gin, t5_1_1/small.gin, t5_1_1/base.gin
  "taxonli": {
    "vocab_size": 208,
    "emb_dim": 48,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 16,
    "mlp_dim": 96,
    "dropout_rate": 0.1,
  },
  "bench": {
    "vocab_size": 32128,
    "emb_dim": 256,
    "num_heads": 4,
    "num_encoder_layers": 4,
    "num_decoder_layers": 4,
    "head_dim": 64,
    "mlp_dim": 512,
    "dropout_rate": 0.1,
  },
  "small": {
    "vocab_size": 32128,
    "emb_dim": 512,
    "num_heads": 6,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "head_dim": 64,
    "mlp_dim": 1024,
    "dtype": "bfloat16",
    "dropout_rate": 0.1,
  },
  "base": {
    "vocab_size": 32128,
    "emb_dim": 768,
    "num_heads": 12,
    "num_encoder_layers": 12,
    "num_decoder_layers": 12,
    "head_dim": 64,
    "mlp_dim": 2048,
    "dtype": "bfloat16",
    "dropout_rate": 0.1,
  },
}


def constant(step):
  del step
  return jnp.float32(0.1)


def _run(
  size: str,
  shape: tuple[int, int, int] = (32, 24, 16),
  *,
  num_microbatches: int = 1,
  partitioner: Partitioner | None = None,
  optimizer: Any = None,
  adapters: lora.LoraOptions | None = None,
  **changes: Any,
) -> abstract_run.AbstractRun:
  rows, encoder_length, decoder_length = shape
  return abstract_run.of_shape(
    train_config.TrainConfig(
      model=encoder_decoder.EncoderDecoderModel(
        config.T5Config(**(SIZES[size] | changes))
      ),
      model_dir="never made",
      vocabulary=vocabularies.from_name("taxonli"),
      optimizer=optimizer or optimizers.AdamW(),
      learning_rate_fn=constant,
      train_dataset_cfg=pipeline.DatasetConfig("taxonli_dss"),
      total_steps=1,
      partitioner=partitioner or Partitioner(),
      num_microbatches=num_microbatches,
      lora=adapters,
      initial_checkpoint_path="never read" if adapters else None,
    ),
    packing_plans.BatchShape(rows, encoder_length, decoder_length, 2 * rows),
    ("label", "rationale"),
  )


@pytest.fixture(scope="session")
def run():
  """`run(size, (rows, encoder, decoder), **changes)` -> `AbstractRun`."""
  return _run
