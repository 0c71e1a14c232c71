"""Validation losses against padded examples, one a row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from dss_jax.data import pipeline
from dss_jax.data.packing import packing_plans
from dss_jax.datasets import DataOptions
from dss_jax.models import abstract_params, encoder_decoder, partitioning
from dss_jax.training import evaluation, optimizers, token_losses
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.validation_loss import ValidationLoss

VOCABULARY = small_runs.VOCABULARY


@pytest.fixture(scope="module")
def config() -> TrainConfig:
  model = encoder_decoder.EncoderDecoderModel(
    dataclasses.replace(small_runs.SIZES, dropout_rate=0.5)
  )
  return TrainConfig(
    model=model,
    model_dir="unused",
    vocabulary=VOCABULARY,
    optimizer=optimizers.AdamW(),
    learning_rate_fn=lambda step: jnp.float32(0.0),
    train_dataset_cfg=pipeline.DatasetConfig(
      "taxonli_dss",
      {"inputs": 48, "targets": 64},
      records_per_batch=8,
      data=DataOptions(taxonli_num_train=16, taxonli_num_validation=11),
    ),
    total_steps=1,
    evaluation_cfg=evaluation.EvaluationConfig(loss_batches=None),
  )


def _expected(config, params) -> dict[str, float]:
  """The losses with every example in a row of its own."""
  examples = pipeline.load_examples(
    dataclasses.replace(config.train_dataset_cfg, split="validation"),
    VOCABULARY,
  )
  apply = jax.jit(config.model.apply)
  expected = {}
  for subtask in examples.subtasks:
    lengths = {"encoder_input": 48, "decoder_input": 64, "decoder_target": 64}
    batch = {
      f"{name}_tokens": np.zeros((len(subtask), length), np.int32)
      for name, length in lengths.items()
    }
    for i in range(len(subtask)):
      inputs, targets = subtask.example(i)
      batch["encoder_input_tokens"][i, : len(inputs)] = inputs
      batch["decoder_input_tokens"][i, 1 : len(targets)] = targets[:-1]
      batch["decoder_target_tokens"][i, : len(targets)] = targets
    targets = batch["decoder_target_tokens"]
    logits = apply(params, batch)
    nll, _ = token_losses.token_nll(logits, targets)
    right = np.asarray(logits.argmax(-1)) == targets
    prefix, real = f"validation/{subtask.name}", targets > 0
    expected[f"{prefix}/loss"] = np.mean(np.asarray(nll)[real])
    expected[f"{prefix}/token_accuracy"] = np.mean(right[real])
  return expected


@pytest.mark.parametrize(
  "devices", [1, pytest.param(8, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_equals_one_example_a_row_on_any_mesh(config, devices):
  """Rows too short for the split's examples are made longer; none is lost."""
  params = jax.device_get(jax.jit(config.model.init)(jax.random.key(0)))
  expected = _expected(config, params)
  partitioner = partitioning.Partitioner(devices=jax.devices()[:devices])
  shardings = partitioner.param_shardings(
    abstract_params.param_shapes(config.model), config.model.param_axes()
  )
  found = ValidationLoss(
    dataclasses.replace(config, partitioner=partitioner),
    packing_plans.BatchShape(8, 40, 8, 8),
    shardings,
  ).run(jax.device_put(params, shardings))
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
