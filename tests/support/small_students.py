"""A student of random weights, and questions for it."""

import dataclasses

import jax
import numpy as np
import pytest

from dss_jax import datasets, vocabularies
from dss_jax.data.pairs import subtasks
from dss_jax.models import (
  abstract_params,
  config,
  encoder_decoder,
  partitioning,
)
from dss_jax.students import student as student_lib


@pytest.fixture(scope="session")
def dss_student() -> student_lib.Student:
  """Its outputs differ from input to input: the weights are large."""
  model = encoder_decoder.EncoderDecoderModel(
    config.T5Config(
      vocab_size=208,
      emb_dim=16,
      num_heads=2,
      head_dim=8,
      mlp_dim=32,
      num_encoder_layers=1,
      num_decoder_layers=1,
      dtype="float32",
    )
  )
  draw = np.random.default_rng(3)
  params = jax.tree.map(
    lambda leaf: draw.normal(0.0, 0.5, leaf.shape).astype(np.float32),
    abstract_params.param_shapes(model),
  )
  return student_lib.Student(
    model=model,
    params=params,
    vocabulary=vocabularies.from_name("taxonli"),
    partitioner=partitioning.Partitioner(devices=jax.devices()[:1]),
    subtasks=subtasks.METHODS["dss"].subtasks,
    feature_lengths={"inputs": 48, "targets": 16},
    labels=("entailment", "neutral", "contradiction"),
    description={"dataset": "taxonli"},
  )


@pytest.fixture(scope="session")
def new_student(dss_student):
  """Makes students with the same weights: method, and fields to change."""

  def make(method: str = "dss", **changes):
    known = subtasks.METHODS[method].subtasks
    return dataclasses.replace(dss_student, subtasks=known, **changes)

  return make


@pytest.fixture(scope="session")
def texts() -> list[str]:
  """Inputs of many lengths."""
  options = datasets.DataOptions(max_records=24)
  records = datasets.load_split("taxonli", "test", options=options)
  long = [f"{each.input} {each.input}" for each in records[:8]]
  return [each.input for each in records] + long
