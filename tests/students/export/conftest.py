"""Students with random parameters, of both families."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import vocabularies
from dss_jax.data.pairs import subtasks
from dss_jax.models import layer_stacking
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import huggingface_weights
from dss_jax.students import student as student_lib

# All sizes different, so that no transposed array can pass.
T5_1_1 = T5Config(
  vocab_size=272,
  emb_dim=12,
  num_heads=3,
  head_dim=8,
  mlp_dim=20,
  num_encoder_layers=3,
  num_decoder_layers=2,
)
T5_1_0 = dataclasses.replace(
  T5_1_1, mlp_activations=("relu",), logits_via_embedding=True
)


def _random_params(config, seed=0, scale=0.5):
  """Under T5X's paths; layer-norm scales about 1."""
  rng = np.random.default_rng(seed)
  params: dict = {}
  for path, shape in huggingface_weights.parameter_shapes(config).items():
    node = params
    for key in path[:-1]:
      node = node.setdefault(key, {})
    value = scale * rng.normal(size=shape).astype(np.float32)
    node[path[-1]] = jnp.asarray(value + (path[-1] == "scale"))
  if config.scan_layers:
    params = layer_stacking.stack_layers(params)
  return jax.tree.map(jnp.asarray, params)


def _make_student(config=T5_1_1, *, params=None, vocabulary="bytes", **changes):
  fields = {
    "subtasks": subtasks.METHODS["dss"].subtasks,
    "feature_lengths": {"inputs": 24, "targets": 12},
    "labels": ("yes", "no"),
    "description": {"source": "runs/a", "step": 3, "task": None},
    **changes,
  }
  return student_lib.Student(
    model=EncoderDecoderModel(config),
    params=_random_params(config) if params is None else params,
    vocabulary=vocabularies.from_name(vocabulary),
    **fields,
  )


@pytest.fixture(scope="session")
def make_student():
  """Makes a student; `config`, `params`, `vocabulary` and fields."""
  return _make_student


@pytest.fixture(params=[T5_1_0, T5_1_1], ids=["t5_1_0", "t5_1_1"])
def config(request):
  """Sizes of each family."""
  return request.param


@pytest.fixture
def student(config):
  """A student of each family."""
  return _make_student(config)


@pytest.fixture
def student_of():
  """Makes a student of a family, by its name."""
  families = {
    "t5_1_0": T5_1_0,
    "t5_1_1": T5_1_1,
    "umt5": dataclasses.replace(T5_1_1, relpos_bias_per_layer=True),
  }
  return lambda name: _make_student(families[name])
