"""T5X's four layouts of parameters, and its optimizer state, in any student."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import small_models

from dss_jax.base.errors import UserError
from dss_jax.models import abstract_params, layer_stacking, partitioning
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import layouts, open_pretrained
from dss_jax.pretrained.files.lazy_arrays import LazyArray
from dss_jax.training import initialization, optimizers, t5x_optimizer_state
from dss_jax.training.optimizers import schedules

CONFIG = dataclasses.replace(
  small_models.ODD, num_encoder_layers=2, num_decoder_layers=3
)
PER_LAYER = dataclasses.replace(CONFIG, relpos_bias_per_layer=True)


def _params(config, seed=0) -> Any:
  return small_models.random_params(config, seed=seed)


def _packed(node):
  """A tree with its arrays as Flax's msgpack has them."""
  if isinstance(node, dict):
    return {key: _packed(child) for key, child in node.items()}
  array = np.asarray(node)
  content = (array.shape, array.dtype.name, array.tobytes())
  return msgpack.ExtType(1, msgpack.packb(content))


def _write(folder, params, param_states=None, step=5):
  """A legacy checkpoint with everything inline."""
  checkpoint = folder / f"checkpoint_{step}"
  checkpoint.mkdir(parents=True)
  state = {"step": np.int32(step), "param_states": param_states or {}}
  content = {
    "version": 3,
    "optimizer": {"target": _packed(params), "state": _packed(state)},
  }
  (checkpoint / "checkpoint").write_bytes(msgpack.packb(content))
  return str(folder)


def _heads_apart(params, config):
  """Attention kernels as T5X's scalable_t5 has them."""

  def change(path, leaf):
    names = [key.key for key in path]
    if "attention" not in " ".join(names) or names[-1] != "kernel":
      return leaf
    heads = (config.num_heads, config.head_dim)
    if names[-2] == "out":
      return (
        leaf.reshape(*heads, *leaf.shape[1:]).swapaxes(1, 2)
        if leaf.ndim == 3
        else leaf.reshape(*heads, *leaf.shape[1:])
      )
    return leaf.reshape(*leaf.shape[:-1], *heads)

  return jax.tree_util.tree_map_with_path(change, params)


def _equal(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("apart_heads", [False, True])
@pytest.mark.parametrize("saved_scanned", [False, True])
@pytest.mark.parametrize("config", [CONFIG, PER_LAYER], ids=["shared", "own"])
def test_every_layout_into_every_student(
  tmp_path, config, saved_scanned, apart_heads
):
  params = _params(config)
  stacked = layer_stacking.stack_layers(params)
  saved = stacked if saved_scanned else params
  if apart_heads:
    saved = _heads_apart(saved, config)
  path = _write(tmp_path, saved)
  opened = open_pretrained(path)
  assert opened.config == config
  assert opened.step == 5
  _equal(opened.load(EncoderDecoderModel(config)), params)
  scanned = dataclasses.replace(config, scan_layers=True)
  _equal(opened.load(EncoderDecoderModel(scanned)), stacked)


def test_scalable_t5s_out_kernels_keep_their_layers_on_axis_1():
  """[heads, layers, head_dim, emb] there, [heads * head_dim, layers, emb] here."""
  config = dataclasses.replace(CONFIG, scan_layers=True)
  params = _heads_apart(_params(config), CONFIG)
  out = params["encoder"]["encoder"]["attention"]["out"]["kernel"]
  assert out.shape == (3, 2, 5, 12)
  query = params["encoder"]["encoder"]["attention"]["query"]["kernel"]
  assert query.shape == (12, 2, 3, 5)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda p: p.pop("token_embedder"), "token_embedder/embedding is None"),
    (lambda p: p.pop("decoder"), "layers"),
    (
      lambda p: p["decoder"]["layers_1"].pop("mlp"),
      "3 missing; decoder/layers_1/mlp/wi_0/kernel missing",
    ),
    (
      lambda p: p["encoder"].update(layers_9999=p["encoder"]["layers_0"]),
      "layers",
    ),
    (
      lambda p: p["encoder"].update(gate={"kernel": np.zeros((2, 2))}),
      "encoder/gate/kernel extra",
    ),
    (
      lambda p: p["encoder"]["relpos_bias"].update(
        rel_embedding=np.zeros((3, 64), np.float32)
      ),
      r"rel_embedding is \[3, 64\] in checkpoint, \[3, 32\]",
    ),
  ],
)
def test_trees_that_are_no_t5(tmp_path, change, match):
  params = _params(CONFIG)
  change(params)
  with pytest.raises(UserError, match=match) as error:
    open_pretrained(_write(tmp_path, params))
  assert "\n" not in str(error.value)


# ------------------------------------------------------------- optimizer state


def _trained(config, steps=2) -> tuple[Any, Any]:
  """Parameters and Adafactor's state after some steps on random gradients."""
  model = EncoderDecoderModel(config)
  tx = _transformation(model)
  params = jax.tree.map(jnp.asarray, _params(config))
  state = tx.init(params)
  for step in range(steps):
    grads = jax.tree.map(jnp.asarray, _params(config, seed=step + 1))
    updates, state = tx.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params, state


def _transformation(model):
  return optimizers.Adafactor(min_dim_size_to_factor=12).transform(
    schedules.create_learning_rate_scheduler(
      "constant", base_learning_rate=0.01
    ),
    abstract_params.param_shapes(model),
    model.param_axes(),
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("scan", "fully_sharded"),
  [
    (True, True),
    pytest.param(False, False, marks=pytest.mark.thorough),
    pytest.param(False, True, marks=pytest.mark.thorough),
    pytest.param(True, False, marks=pytest.mark.thorough),
  ],
)
def test_the_optimizer_state_is_continued(tmp_path, scan, fully_sharded):
  params, state = _trained(CONFIG)
  # Some slots are factored and some are not, square ones among them.
  path = _write(tmp_path, params, t5x_optimizer_state.to_t5x(state), step=2)
  config = dataclasses.replace(CONFIG, scan_layers=scan)
  model = EncoderDecoderModel(config)
  tx = _transformation(model)
  partitioner = partitioning.Partitioner(
    fully_sharded=fully_sharded, fully_sharded_min_size=100
  )
  opened = initialization.open_initial(path, model, optimizer_state=True)
  restored, shardings = initialization.initial_state(
    opened, model, tx, partitioner, optimizer_state=True
  )
  assert int(restored.step) == 0
  assert int(restored.opt_state.count) == 2
  placed = jax.tree.map(lambda leaf: leaf.sharding, restored)
  assert jax.tree.all(
    jax.tree.map(
      lambda leaf, a, b: a.is_equivalent_to(b, leaf.ndim),
      restored,
      placed,
      shardings,
    )
  )
  # One step more is the step that the first optimizer would have made.
  grads = _params(CONFIG, seed=9)
  wanted: Any
  wanted, _ = _transformation(EncoderDecoderModel(CONFIG)).update(
    jax.tree.map(jnp.asarray, grads), state, params
  )
  if scan:
    grads = layer_stacking.stack_layers(grads)
    wanted = layer_stacking.stack_layers(wanted)
  found, _ = tx.update(
    jax.tree.map(jnp.asarray, grads), restored.opt_state, restored.params
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7),
    found,
    wanted,
  )


@pytest.mark.slow
def test_optimizer_states_that_do_not_fit(tmp_path):
  params, state = _trained(CONFIG, steps=1)
  states = t5x_optimizer_state.to_t5x(state)
  model = EncoderDecoderModel(CONFIG)
  partitioner = partitioning.Partitioner()
  plain = _write(tmp_path / "plain", params)
  with pytest.raises(UserError, match="has no optimizer state"):
    initialization.open_initial(plain, model, optimizer_state=True)
  path = _write(tmp_path / "x", params, states)
  opened = initialization.open_initial(path, model, optimizer_state=True)

  def start(optimizer):
    tx = optimizer.transform(
      schedules.create_learning_rate_scheduler(
        "constant", base_learning_rate=0.01
      ),
      abstract_params.param_shapes(model),
      model.param_axes(),
    )
    initialization.initial_state(
      opened, model, tx, partitioner, optimizer_state=True
    )

  with pytest.raises(UserError, match="set optimizer to Adafactor"):
    start(optimizers.AdamW())
  with pytest.raises(UserError, match="min_dim_size_to_factor"):
    start(optimizers.Adafactor())


@pytest.mark.parametrize("shape", [(4,), (0, 2**40), (4, 2**40), (4, 0)])
def test_stacks_of_any_number_of_layers(shape):
  def read(index):
    raise AssertionError("nothing is to be read")

  array = LazyArray(shape, np.dtype(np.float32), read)
  with pytest.raises(UserError, match="there must be 1 to 1000 layers"):
    layouts.layers_apart({"encoder/encoder/scale": array}, "it")


# ------------------------------------------------------------------ T5X's own


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("layout", ["orbax", "legacy"])
def test_training_continues_from_t5xs_own_optimizer_state(shared_data, layout):
  """The step after is T5X's (parity.npz), through the trainer's own door."""
  from dss_jax.training import losses, token_losses

  folder = shared_data / "t5x_tiny"
  path = str(folder / layout)
  model = EncoderDecoderModel(open_pretrained(path).config)
  opened = initialization.open_initial(path, model, optimizer_state=True)
  assert opened.step == 3
  tx = optimizers.Adafactor(min_dim_size_to_factor=16).transform(
    schedules.create_learning_rate_scheduler(
      "constant", base_learning_rate=0.01
    ),
    abstract_params.param_shapes(model),
    model.param_axes(),
  )
  state, _ = initialization.initial_state(
    opened, model, tx, partitioning.Partitioner(), optimizer_state=True
  )
  with np.load(folder / "parity.npz") as arrays:
    arrays = dict(arrays)
  batch = {
    name: jnp.asarray(value)
    for name, value in arrays.items()
    if name.startswith(("encoder_", "decoder_"))
  }
  weighting = losses.Weighting((1.0,), None)

  @jax.jit
  def update(state):
    def loss_fn(params):
      logits = model.apply(params, batch)
      nll, z = token_losses.token_nll(
        logits, batch["decoder_target_tokens"], 1e-4
      )
      return jnp.sum(weighting(batch) * (nll + z))

    grads = jax.grad(loss_fn)(state.params)
    updates, _ = tx.update(grads, state.opt_state, state.params)
    return jax.tree.map(jnp.add, state.params, updates)

  after = update(state)
  compared = 0
  for name, expected in arrays.items():
    if not name.startswith("after:"):
      continue
    node = after
    for key in name.removeprefix("after:").split("/"):
      node = node[key]
    found = np.asarray(node)[: len(expected)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    compared += 1
  assert compared == 8
