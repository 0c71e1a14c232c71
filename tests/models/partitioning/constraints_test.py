"""On a mesh: constraints are really there, and change no value."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small_models
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small_models import ODD

from dss_jax.models.decoding import beam_search
from dss_jax.models.encoder_decoder import (
  EncoderDecoderModel,
)
from dss_jax.models.partitioning.constraints import (
  constrain,
  fetch,
  logical_axis_rules,
)

RULES = (
  ("batch", "data"),
  ("vocab", "model"),
  ("mlp", "model"),
  ("heads", "model"),
  ("joined_kv", "model"),
  ("kv", None),
  ("embed", None),
  ("length", None),
  ("layers", None),
  ("relpos_buckets", None),
)
# 3 heads do not divide into 2, and vocabulary and batch do.
CONFIG = dataclasses.replace(
  ODD, vocab_size=34, head_dim=4, num_decoder_layers=1
)
BATCH = {
  name: np.random.default_rng(i).integers(2, 34, (8, 5)).astype(np.int32)
  for i, name in enumerate(
    ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
  )
}


def _mesh(data=4, model=2):
  return jax.make_mesh(
    (data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2
  )


def _gradient(model):
  """A new function each time: JAX must not reuse a trace without a mesh."""

  def loss(params, batch):
    return model.apply(params, batch).std()

  return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize(
  ("function", "constraints"), [(constrain, 2), (fetch, 1)]
)
def test_a_parameter_is_fetched_and_its_gradient_left_where_it_is(
  function, constraints
):
  kernel = np.ones((8, 4), np.float32)

  def loss(kernel):
    return (function(kernel, "embed", "mlp") ** 2).sum()

  with jax.set_mesh(_mesh()), logical_axis_rules(RULES):
    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(kernel))
  assert jaxpr.count("sharding_constraint[") == constraints


def _spec_of(axes):
  rules = dict(RULES)
  return PartitionSpec(*(rules[name] for name in axes))


def _num_constraints(lowered):
  text = lowered.as_text()
  return text.count("sharding_constraint") + text.count("@Sharding")


def test_lowered_step_has_constraints_only_under_mesh_and_rules():
  model = EncoderDecoderModel(CONFIG)
  params = small_models.random_params(model.config, 0.5)
  with jax.set_mesh(_mesh()), logical_axis_rules(RULES):
    constrained = _num_constraints(_gradient(model).lower(params, BATCH))
  with jax.set_mesh(_mesh()):
    no_rules = _num_constraints(_gradient(model).lower(params, BATCH))
  with logical_axis_rules(RULES):
    no_mesh = _num_constraints(_gradient(model).lower(params, BATCH))
  # 27 parameters, and several activations of each layer, forward and back.
  assert constrained > 60
  assert (no_rules, no_mesh) == (0, 0)


@pytest.mark.parametrize(
  "scan_layers", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_mesh_changes_no_value_and_parameters_stay_sharded(scan_layers):
  config = dataclasses.replace(CONFIG, scan_layers=scan_layers)
  model = EncoderDecoderModel(config)
  params = small_models.random_params(model.config, 0.5)
  expected = _gradient(model)(params, BATCH)
  mesh = _mesh()
  axes = jax.tree.structure(params).flatten_up_to(model.param_axes())
  leaves, structure = jax.tree.flatten(params)
  placed = []
  for leaf, names in zip(leaves, axes, strict=True):
    spec = _spec_of(names)
    if names[0] == "heads":
      spec = PartitionSpec()
    placed.append(jax.device_put(leaf, NamedSharding(mesh, spec)))
  placed = jax.tree.unflatten(structure, placed)
  batch = jax.device_put(BATCH, NamedSharding(mesh, PartitionSpec("data")))
  with jax.set_mesh(mesh), logical_axis_rules(RULES):
    actual = _gradient(model)(placed, batch)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5), actual, expected
  )
  stack = actual[1]["encoder"]
  layer = stack["encoder"] if scan_layers else stack["layers_0"]
  kernel = layer["mlp"]["wi_0"]["kernel"]
  assert kernel.sharding.spec[-1] == "model"
  assert kernel.addressable_shards[0].data.shape[-1] == 5
  table = actual[1]["token_embedder"]["embedding"]
  assert table.addressable_shards[0].data.shape[0] == 17


@pytest.mark.slow
def test_init_is_the_same_on_a_mesh():
  model = EncoderDecoderModel(CONFIG)
  mesh = _mesh()
  replicated = NamedSharding(mesh, PartitionSpec())
  shardings = jax.tree.map(
    lambda _: replicated, jax.eval_shape(model.init, jax.random.key(0))
  )
  for stack in ("encoder", "decoder"):
    mlp = shardings[stack]["layers_0"]["mlp"]
    mlp["wo"]["kernel"] = NamedSharding(mesh, PartitionSpec("model", None))
  with jax.set_mesh(mesh), logical_axis_rules(RULES):
    params = jax.jit(model.init, out_shardings=shardings)(jax.random.key(5))
  kernel = params["decoder"]["layers_0"]["mlp"]["wo"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (5, 12)
  alone = jax.jit(model.init)(jax.random.key(5))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), params, alone
  )


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_beam_search_is_the_same_on_a_mesh(scan_layers):
  config = dataclasses.replace(CONFIG, scan_layers=scan_layers)
  model = EncoderDecoderModel(config)
  params = small_models.random_params(model.config, 0.5)
  params["token_embedder"]["embedding"] *= 4

  def search(params, tokens):
    encoded = model.encode(params, tokens)
    cache = model.init_cache(params, encoded, tokens, 6)
    return beam_search.beam_search(
      functools.partial(model.decode_step, params),
      cache,
      max_decode_length=6,
      num_beams=3,
    )

  tokens = BATCH["encoder_input_tokens"]
  expected = jax.jit(search)(params, tokens)
  mesh = _mesh()
  batch = NamedSharding(mesh, PartitionSpec("data"))
  with jax.set_mesh(mesh), logical_axis_rules(RULES):
    actual = jax.jit(search)(params, jax.device_put(tokens, batch))
  np.testing.assert_array_equal(actual[0], expected[0])
  np.testing.assert_allclose(actual[1], expected[1], rtol=1e-5)
