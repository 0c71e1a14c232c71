"""Adapters: which kernels get them, what they compute, how they are trained."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models

from dss_jax.base import named_trees
from dss_jax.base.errors import UserError
from dss_jax.models import abstract_params, layer_stacking, lora, partitioning
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.models.lora import LoraModel, LoraOptions
from dss_jax.models.partitioning import logical_axes
from dss_jax.training import losses, optimizers, train_state, train_step
from dss_jax.training.optimizers import adafactor

SIZES = dataclasses.replace(small_models.SMALL, dropout_rate=0.1)
MODEL = EncoderDecoderModel(SIZES)
SCANNED = EncoderDecoderModel(dataclasses.replace(SIZES, scan_layers=True))
OPTIONS = LoraOptions(rank=3, alpha=6.0, targets="attention_and_mlp")


def _base(model=MODEL):
  """Numbers of a student's usual size, the same in both layouts."""
  return small_models.random_params(model.config, 0.3)


def _trained(adapters, base):
  """Adapters as after some training: B is not zero."""
  rng = np.random.default_rng(1)
  params = adapters.init(jax.random.key(1), base)
  flat, structure = jax.tree.flatten(params)
  return structure.unflatten(
    np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
    for leaf in flat
  )


def _batch(rows=8, length=6):
  rng = np.random.default_rng(2)
  names = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
  )
  ones = np.ones((rows, length), np.int32)
  return {
    **{
      name: rng.integers(2, 32, (rows, length)).astype(np.int32)
      for name in names
    },
    "decoder_loss_weights": ones,
    "decoder_example_weights": ones.astype(np.float32),
    "decoder_subtask_ids": ones,
    "decoder_segment_ids": ones,
    "encoder_segment_ids": ones,
    "decoder_record_ids": ones,
  }


def _paths(tree) -> dict[str, tuple[int, ...]]:
  return named_trees.shapes(tree)


# ------------------------------------------------------------ which parameters


@pytest.mark.parametrize(
  ("model", "targets", "names"),
  [
    (MODEL, "query_value", "query value"),
    (SCANNED, "attention", "query key value out"),
    (MODEL, "attention_and_mlp", "query key value out wi_0 wi_1 wo"),
    (SCANNED, "^decoder/.*/wo/kernel$", "wo"),
  ],
)
def test_targets_choose_kernels(model, targets, names):
  adapters = LoraModel(model, LoraOptions(rank=3, targets=targets))
  found = _paths(abstract_params.param_shapes(adapters))
  base = _paths(abstract_params.param_shapes(model))
  stems = {path.rpartition("/")[0] for path in found}
  assert stems == {
    path.removesuffix("/kernel")
    for path in base
    if path.endswith("/kernel")
    and path.split("/")[-2] in names.split()
    and path.startswith("decoder" if targets[0] == "^" else "")
  }
  for stem in stems:
    *first, last = base[f"{stem}/kernel"]
    assert found[f"{stem}/lora_a"] == (*first, 3)
    assert found[f"{stem}/lora_b"] == (3, *first[1:], last)
  assert len(found) == 2 * len(stems)
  assert adapters.num_trained() == sum(np.prod(s) for s in found.values())


def test_axes_follow_the_kernels():
  for model, layers in ((MODEL, ()), (SCANNED, ("layers",))):
    adapters = LoraModel(
      model, dataclasses.replace(OPTIONS, also_train="scale$")
    )
    named = {
      param.path: param.axes
      for param in logical_axes.named_params(
        abstract_params.param_shapes(adapters), adapters.param_axes()
      )
    }
    stem = "encoder/encoder/" if layers else "encoder/layers_0/"
    assert named[f"{stem}mlp/wo/lora_a"] == ("mlp", *layers, None)
    assert named[f"{stem}mlp/wo/lora_b"] == (None, *layers, "embed")
    assert named["decoder/decoder_norm/scale"] == ("embed",)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"rank": 0}, "rank is 0; it must be 1 or more"),
    ({"alpha": 0.0}, "alpha is 0.0"),
    ({"alpha": float("nan")}, "alpha is nan"),
    ({"targets": "("}, "targets is '(', which is no regular expression"),
    ({"also_train": ["["]}, "also_train is '['"),
    ({"targets": "quary"}, "targets 'quary' matches no parameter"),
    # No kernel: the model would not notice an adapter.
    ({"targets": "token_embedder"}, "targets 'token_embedder' matches no"),
    ({"also_train": "scales"}, "also_train 'scales' matches no parameter"),
    ({"also_train": "query"}, "trains decoder/layers_0/encoder_decoder_att"),
  ],
)
def test_wrong_options_are_refused_in_one_line(options, said):
  with pytest.raises(UserError, match=re.escape(said)) as error:
    LoraModel(MODEL, LoraOptions(**options))
  assert "\n" not in str(error.value)


# ------------------------------------------------------------------ what it is


def test_first_adapters_have_the_paper_s_distribution_in_both_layouts():
  base = _base()
  params = LoraModel(MODEL, OPTIONS).init(jax.random.key(3), base)
  stacked = LoraModel(SCANNED, OPTIONS).init(jax.random.key(3), _base(SCANNED))
  jax.tree.map(
    np.testing.assert_array_equal, layer_stacking.stack_layers(params), stacked
  )
  drawn = []
  for param in logical_axes.named_params(params):
    value = np.asarray(param.value)
    if param.path.endswith("lora_b"):
      assert not value.any()
    else:
      drawn.append(value.ravel() * np.sqrt(value.shape[0]))
  assert len({each[0] for each in drawn}) == len(drawn)  # all different
  values = np.concatenate(drawn)
  assert abs(values).max() <= 1
  np.testing.assert_allclose(values.std(), 1 / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize(
  "model", [MODEL, pytest.param(SCANNED, marks=pytest.mark.slow)]
)
def test_merged_kernels_are_sums(model):
  base = _base(model)
  adapters = LoraModel(
    model, dataclasses.replace(OPTIONS, also_train=("scale$",))
  )
  trained = _trained(adapters, base)
  merged = adapters.merge(base, trained)
  assert _paths(merged) == _paths(base)
  changed = lora.by_path(trained)
  for path, kernel in lora.by_path(base).items():
    value = lora.by_path(merged)[path]
    stem = path.removesuffix("kernel")
    if f"{stem}lora_a" in changed:
      a, b = (changed[f"{stem}lora_{x}"].astype(np.float64) for x in "ab")
      added = np.einsum("i...r,r...o->i...o", a, b)
      np.testing.assert_allclose(value, kernel + 2 * added, atol=1e-6)
    elif path.endswith("scale"):
      np.testing.assert_array_equal(value, changed[path])
    else:
      assert value is kernel


def test_weights_have_one_hash_in_both_layouts():
  base = _base()
  assert lora.weights_hash(base) == lora.weights_hash(_base(SCANNED))
  assert lora.weights_hash(jax.tree.map(jnp.asarray, base)) == (
    lora.weights_hash(base)
  )
  base["encoder"]["layers_0"]["mlp"]["wo"]["kernel"][3, 2] += 1
  assert lora.weights_hash(base) != lora.weights_hash(_base())


# --------------------------------------------------------------- what it does


def _loss(logits):
  return jnp.mean(jnp.square(logits)), logits


def _adapted(model, trained, base, key):
  student = LoraModel(model, OPTIONS).on(base)
  hidden = student.hidden_states(trained, _batch(), dropout_key=key)
  return _loss(student.logits(trained, hidden))


def _merged(model, trained, base, key):
  params = LoraModel(model, OPTIONS).merge(base, trained)
  return _loss(model.apply(params, _batch(), dropout_key=key))


@pytest.mark.slow
@pytest.mark.parametrize("model", [MODEL, SCANNED])
def test_the_first_step_begins_at_the_base_exactly(model):
  base, key = _base(model), jax.random.key(5)
  adapters = LoraModel(model, OPTIONS)
  first = adapters.init(jax.random.key(1), base)
  run = jax.jit(_adapted, static_argnums=0)
  logits = jax.jit(model.apply)(base, _batch(), dropout_key=key)
  np.testing.assert_array_equal(run(model, first, base, key)[1], logits)
  jax.tree.map(np.testing.assert_array_equal, adapters.merge(base, first), base)


@pytest.mark.slow
def test_gradients_are_those_through_the_sum_of_the_kernels():
  base, key = _base(), jax.random.key(5)
  trained = _trained(LoraModel(MODEL, OPTIONS), base)
  ((value, _), grads), ((wanted, _), wanted_grads) = (
    jax.jit(
      jax.value_and_grad(function, argnums=1, has_aux=True), static_argnums=0
    )(MODEL, trained, base, key)
    for function in (_adapted, _merged)
  )
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6),
    grads,
    wanted_grads,
  )


# ------------------------------------------------------------------- training


@pytest.mark.parametrize(
  ("optimizer", "rate"),
  [
    (optimizers.AdamW(), 0.01),
    # Relative to their size, 0 for B: only the least size makes it move.
    (optimizers.ParameterScaledAdam(), 0.5),
    (adafactor.Adafactor(), 0.5),
  ],
)
def test_every_optimizer_moves_a_from_its_draw_and_b_from_zero(optimizer, rate):
  rng = np.random.default_rng(0)
  inputs, outputs = rng.normal(size=(2, 32, 6)).astype(np.float32)
  first = {"lora_a": rng.uniform(-0.4, 0.4, (6, 2)), "lora_b": np.zeros((2, 6))}
  params = first = jax.tree.map(jnp.float32, first)
  axes = {"lora_a": ("embed", None), "lora_b": (None, "mlp")}
  tx = optimizer.transform(lambda step: jnp.float32(rate), params, axes)
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    def loss(params):
      product = inputs @ params["lora_a"] @ params["lora_b"]
      return jnp.mean(jnp.square(product - outputs))

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return value, optax.apply_updates(params, updates), state

  values = []
  for _ in range(60):
    value, params, state = step(params, state)
    values.append(float(value))
  assert values[-1] < values[0] - 0.01
  for name, value in params.items():
    assert np.abs(value - first[name]).max() > 1e-3, name


# Two layers, so that scanning has something to scan; and no dropout, whose
# masks are drawn differently for layers apart and stacked.
_DEEPER = dataclasses.replace(
  SIZES, num_encoder_layers=2, num_decoder_layers=2, dropout_rate=0.0
)
DEEPER = EncoderDecoderModel(_DEEPER)
DEEPER_SCANNED = EncoderDecoderModel(
  dataclasses.replace(_DEEPER, scan_layers=True)
)


def _prepare(model, partitioner):
  """A step of adapters and layer norms, its state and its base."""
  options = dataclasses.replace(OPTIONS, rank=4, also_train="scale$")
  adapters = LoraModel(model, options)
  host_base = _base(model)
  base = partitioning.place(
    host_base, partitioner.param_shardings(host_base, model.param_axes())
  )
  tx = optimizers.AdamW().transform(
    lambda step: jnp.float32(0.01), abstract_params.param_shapes(adapters)
  )
  state, shardings = train_state.state_from_params(
    adapters.init(jax.random.key(1), base),
    tx,
    partitioner,
    adapters.param_axes(),
  )
  step = train_step.jit_train_step(
    model=model,
    adapted=(adapters.on, base),
    tx=tx,
    options=train_step.StepOptions(losses.Objective().weighting(("label",))),
    partitioner=partitioner,
    state_shardings=shardings,
    base_key=jax.random.key(7),
  )
  return step, state, base


@functools.cache
def _train(model, **mesh):
  """Two steps on one batch: losses, and what is trained."""
  partitioner = partitioning.Partitioner(**mesh, fully_sharded_min_size=16)
  step, state, base = _prepare(model, partitioner)
  values = []
  for _ in range(2):
    state, sums = step(state, partitioner.put_batch(_batch()))
    values.append(float(sums["loss"]))
  # The base is where and what it was: neither donated nor changed.
  jax.tree.map(np.testing.assert_array_equal, base, _base(model))
  return values, state.params


@pytest.mark.slow
@pytest.mark.parametrize(
  ("model", "mesh"),
  [
    (DEEPER, {}),
    (DEEPER_SCANNED, {"num_partitions": 2, "fully_sharded": True}),
    pytest.param(
      DEEPER_SCANNED, {"num_partitions": 2}, marks=pytest.mark.thorough
    ),
  ],
)
def test_neither_a_mesh_nor_scanning_changes_anything(model, mesh):
  one_device = tuple(jax.devices()[:1])
  wanted_losses, wanted = _train(DEEPER, devices=one_device)
  values, params = _train(model, **mesh)
  np.testing.assert_allclose(values, wanted_losses, rtol=1e-5)
  leaves = lora.by_path(params)
  stem = "encoder/layers_0"
  if model.config.scan_layers:
    wanted = layer_stacking.stack_layers(wanted)
    stem = "encoder/encoder"
  # AdamW's first steps are as large for tiny gradients as for others.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-4), params, wanted
  )
  spec = str(leaves[f"{stem}/mlp/wi_0/lora_b"].sharding.spec)
  assert ("model" in spec) == ("num_partitions" in mesh)
  specs = [str(leaf.sharding.spec) for leaf in leaves.values()]
  assert any("data" in spec for spec in specs) == ("fully_sharded" in mesh)


@pytest.mark.slow
def test_the_base_is_no_constant_of_the_program():
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  step, state, _ = _prepare(MODEL, partitioner)
  text = step.lower(state, partitioner.put_batch(_batch())).as_text()
  signature = re.search(r"func.func public @main\((.*)", text)
  assert signature
  assert "tensor<32x8xf32>" in signature[1]  # the embedding
  # Large constants are written as hexadecimal digits.
  assert not re.search(r'constant dense<"0x[0-9A-F]{64,}', text)
