"""Validation losses against one padded example at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import evaluation, losses, optimizers, partitioning, train_state
from dss_jax.data import packing, pipeline, vocabularies
from dss_jax.datasets import DataOptions
from dss_jax.models import config as model_config
from dss_jax.models import encoder_decoder
from dss_jax.train_config import TrainConfig
from dss_jax.validation_loss import ValidationLoss

VOCABULARY = vocabularies.from_name("taxonli")


@pytest.fixture(scope="module")
def config() -> TrainConfig:
  model = encoder_decoder.EncoderDecoderModel(
    model_config.T5Config(
      vocab_size=VOCABULARY.vocab_size,
      emb_dim=8,
      num_heads=2,
      head_dim=4,
      mlp_dim=16,
      num_encoder_layers=1,
      num_decoder_layers=1,
      dropout_rate=0.5,
    )
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


def test_equals_one_example_at_a_time(config):
  """Rows too short for the split's examples are made longer; none is lost."""
  shape = packing.BatchShape(8, 40, 8, 8)
  shapes = train_state.param_shapes(config.model)
  shardings = config.partitioner.param_shardings(
    shapes, config.model.param_axes()
  )
  params = jax.jit(config.model.init, out_shardings=shardings)(
    jax.random.key(0)
  )
  found = ValidationLoss(config, shape, shardings).run(params)

  examples = pipeline.load_examples(
    dataclasses.replace(config.train_dataset_cfg, split="validation"),
    VOCABULARY,
  )
  host_params = jax.device_get(params)
  apply = jax.jit(config.model.apply)
  expected = {}
  for subtask in examples.subtasks:
    nll = tokens = correct = 0
    for i in range(len(subtask)):
      inputs, targets = subtask.example(i)
      batch = {
        "encoder_input_tokens": np.zeros((1, 48), np.int32),
        "decoder_input_tokens": np.zeros((1, 64), np.int32),
        "decoder_target_tokens": np.zeros((1, 64), np.int32),
      }
      batch["encoder_input_tokens"][0, : len(inputs)] = inputs
      batch["decoder_input_tokens"][0, 1 : len(targets)] = targets[:-1]
      batch["decoder_target_tokens"][0, : len(targets)] = targets
      logits = apply(host_params, batch)[:, : len(targets)]
      of_tokens, _ = losses.token_nll(logits, targets[None])
      nll += float(of_tokens.sum())
      tokens += len(targets)
      correct += int((logits.argmax(-1)[0] == targets).sum())
    expected[f"validation/{subtask.name}/loss"] = nll / tokens
    expected[f"validation/{subtask.name}/token_accuracy"] = correct / tokens
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_one_device_measures_the_same(config):
  one = dataclasses.replace(
    config, partitioner=partitioning.Partitioner(devices=jax.devices()[:1])
  )
  values = []
  for each in (one, config):
    shardings = each.partitioner.param_shardings(
      train_state.param_shapes(each.model), each.model.param_axes()
    )
    params = jax.jit(each.model.init, out_shardings=shardings)(
      jax.random.key(0)
    )
    shape = packing.BatchShape(8, 40, 16, 8)
    values.append(ValidationLoss(each, shape, shardings).run(params))
  assert values[0].keys() == values[1].keys()
  for name in values[0]:
    np.testing.assert_allclose(values[0][name], values[1][name], rtol=1e-5)
