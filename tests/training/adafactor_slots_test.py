"""Optimizer states in the layout of T5X's `scalable_t5`, both ways.

What T5X keeps there is written out here: it names the dimensions of each kernel,
averages over all of them but `embed` for rows and over `embed` for columns,
whatever their sizes, and keeps the rest whole.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import small_models

from dss_jax.base import named_trees
from dss_jax.base.errors import UserError
from dss_jax.models import abstract_params, layer_stacking, partitioning
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import open_pretrained
from dss_jax.students.export import t5x as export_t5x
from dss_jax.training import initialization, optimizers, t5x_optimizer_state
from dss_jax.training.optimizers import schedules

PER_LAYER = dataclasses.replace(
  small_models.ODD,
  num_encoder_layers=2,
  num_decoder_layers=3,
  relpos_bias_per_layer=True,
)
# Sizes alone do not say there which dimension an average keeps.
SQUARE = dataclasses.replace(PER_LAYER, head_dim=4, mlp_dim=12)
STEPS = 2


def _arrays(config, seed):
  """Random numbers as the parameters of `scalable_t5`, and as ours."""
  config = dataclasses.replace(config, scan_layers=False)
  ours = small_models.random_params(config, seed=seed)
  flat = {}
  for path, array in _flat(layer_stacking.stack_layers(ours)).items():
    flat[path] = _heads_apart(path, array, config.num_heads)
  return flat, ours


def _flat(tree, *prefix) -> dict[str, Any]:
  if not isinstance(tree, dict):
    return {"/".join(prefix): np.asarray(tree)}
  result = {}
  for key, child in tree.items():
    result |= _flat(child, *prefix, key)
  return result


def _heads_apart(path, array, heads):
  if "attention/" not in path:
    return array
  if path.endswith("out/kernel"):  # [heads * head_dim, layers, emb]
    joined, layers, emb = array.shape
    apart = array.reshape(heads, joined // heads, layers, emb)
    return apart.transpose(0, 2, 1, 3)
  emb, layers, joined = array.shape
  return array.reshape(emb, layers, heads, joined // heads)


def _axes(path) -> tuple[str, ...] | None:
  """The names of a stacked kernel's dimensions in T5X."""
  if not path.startswith(("encoder/encoder/", "decoder/decoder/")):
    return None
  for end, axes in {
    "out/kernel": ("heads", "layers", "kv", "embed"),
    "attention/query/kernel": ("embed", "layers", "heads", "kv"),
    "attention/key/kernel": ("embed", "layers", "heads", "kv"),
    "attention/value/kernel": ("embed", "layers", "heads", "kv"),
    "wi_0/kernel": ("embed", "layers", "mlp"),
    "wi_1/kernel": ("embed", "layers", "mlp"),
    "wo/kernel": ("mlp", "layers", "embed"),
  }.items():
    if path.endswith(end):
      return axes
  return None


def _t5x_state(config) -> dict[str, np.ndarray]:
  """`param_states` of `scalable_t5` after the steps."""
  result: dict[str, np.ndarray] = {}
  for step in range(STEPS):
    decay = 1 - (step + 1.0) ** -0.8
    for path, grad in _arrays(config, seed=step + 1)[0].items():
      squares = grad.astype(np.float64) ** 2 + 1e-30
      new = dict.fromkeys(("m", "v", "v_row", "v_col"), np.zeros(1))
      if axes := _axes(path):
        columns = tuple(
          i for i, name in enumerate(axes) if name not in ("embed", "layers")
        )
        new["v_row"] = squares.mean(columns)
        new["v_col"] = squares.mean(axes.index("embed"))
      else:
        new["v"] = squares
      for slot, value in new.items():
        before = result.get(f"{path}/{slot}", np.float64(0))
        mixed = decay * before + (1 - decay) * value
        result[f"{path}/{slot}"] = mixed
  return {path: value.astype(np.float32) for path, value in result.items()}


def _optimizer(model, **options):
  return optimizers.Adafactor(**options).transform(
    schedules.create_learning_rate_scheduler(
      "constant", base_learning_rate=0.01
    ),
    abstract_params.param_shapes(model),
    model.param_axes(),
  )


def _our_state(config, **options) -> Any:
  """Our own optimizer's state after the same steps."""
  model = EncoderDecoderModel(config)
  tx = _optimizer(model, **options)

  def tree(seed):
    ours = _arrays(config, seed)[1]
    if config.scan_layers:
      ours = layer_stacking.stack_layers(ours)
    return jax.tree.map(jnp.asarray, ours)

  params = tree(0)
  state = tx.init(params)
  for step in range(STEPS):
    _, state = jax.jit(tx.update)(tree(step + 1), state, params)
  return tx, params, state


def _packed(node):
  if isinstance(node, dict):
    return {key: _packed(child) for key, child in node.items()}
  array = np.asarray(node)
  content = (array.shape, array.dtype.name, array.tobytes())
  return msgpack.ExtType(1, msgpack.packb(content))


def _write(folder, params, states):
  folder.mkdir()
  state = {"step": np.int32(STEPS), "param_states": named_trees.nested(states)}
  target = named_trees.nested(params)
  content = {
    "version": 3,
    "optimizer": {"target": _packed(target), "state": _packed(state)},
  }
  (folder / "checkpoint").write_bytes(msgpack.packb(content))
  return str(folder)


def _start(path, config, tx) -> Any:
  model = EncoderDecoderModel(config)
  opened = initialization.open_initial(path, model, optimizer_state=True)
  state, _ = initialization.initial_state(
    opened, model, tx, partitioning.Partitioner(), optimizer_state=True
  )
  return state


def _assert_close(found, wanted):
  found, wanted = _flat(found), _flat(wanted)
  assert found.keys() == wanted.keys()
  for path, array in wanted.items():
    np.testing.assert_allclose(found[path], array, 2e-6, err_msg=path)


@pytest.mark.parametrize(
  ("config", "scan"), [(PER_LAYER, True), (SQUARE, True), (SQUARE, False)]
)
def test_a_run_continues_from_scalable_t5(tmp_path, config, scan):
  path = _write(tmp_path / "x", _arrays(config, 0)[0], _t5x_state(config))
  config = dataclasses.replace(config, scan_layers=scan)
  tx, _, wanted = _our_state(config, min_dim_size_to_factor=1)
  found = _start(path, config, tx).opt_state
  assert int(found.count) == STEPS
  for slot in ("v_row", "v_col", "v"):
    _assert_close(getattr(found, slot), getattr(wanted, slot))


def test_what_averages_do_not_tell_is_refused_with_advice_that_works(tmp_path):
  path = _write(tmp_path / "x", _arrays(SQUARE, 0)[0], _t5x_state(SQUARE))
  model = EncoderDecoderModel(SQUARE)
  with pytest.raises(UserError, match="min_dim_size_to_factor to 12 or less"):
    _start(path, SQUARE, _optimizer(model))
  _start(path, SQUARE, _optimizer(model, min_dim_size_to_factor=12))
  tx = _optimizer(model, min_dim_size_to_factor=12, beta1=0.9)
  with pytest.raises(UserError, match="beta1 to those of the checkpoint"):
    _start(path, SQUARE, tx)
  states = _t5x_state(SQUARE)
  name = "encoder/encoder/mlp/wo/kernel/m"
  states[name] = _arrays(SQUARE, 0)[0][name.removesuffix("/m")]
  path = _write(tmp_path / "y", _arrays(SQUARE, 0)[0], states)
  with pytest.raises(UserError, match="has momentum, and beta1 is None"):
    _start(path, SQUARE, _optimizer(model, min_dim_size_to_factor=12))


@pytest.mark.parametrize(
  ("config", "scan", "minimum"),
  [(PER_LAYER, False, 8), (SQUARE, True, 128), (SQUARE, True, 12)],
)
def test_a_bias_per_layer_is_written_as_scalable_t5_has_it(
  config, scan, minimum
):
  params, ours = _arrays(config, 0)
  own = layer_stacking.stack_layers(ours) if scan else ours
  config = dataclasses.replace(config, scan_layers=scan)
  _, _, state = _our_state(config, min_dim_size_to_factor=minimum)
  states = t5x_optimizer_state.to_t5x(state)
  states = jax.tree.map(np.asarray, states)
  found, found_states = export_t5x.to_t5x(own, states, config)
  assert found_states is not None
  _assert_close(found, named_trees.nested(params))
  wanted = _t5x_state(config)
  if minimum < 128:  # T5X's own is 128: tables stay whole
    for path in ("token_embedder/embedding", "decoder/logits_dense/kernel"):
      for slot in ("v", "v_row", "v_col"):
        wanted.pop(f"{path}/{slot}", None)
        table = found_states
        for key in path.split("/"):
          table = table.get(key, {})
        table.pop(slot, None)
  _assert_close(found_states, named_trees.nested(wanted))


def test_a_shared_bias_is_written_with_layers_apart(tmp_path):
  apart = dataclasses.replace(SQUARE, relpos_bias_per_layer=False)
  scanned = dataclasses.replace(apart, scan_layers=True)
  found = {}
  for config in (apart, scanned):
    tx, params, state = _our_state(config, min_dim_size_to_factor=8)
    states = t5x_optimizer_state.to_t5x(state)
    params = jax.tree.map(np.asarray, params)
    states: Any = jax.tree.map(np.asarray, states)
    found[config] = export_t5x.to_t5x(params, states, config)
    folder = tmp_path / str(config.scan_layers)
    folder.mkdir()
    target, slots = found[config]
    path = export_t5x.write_checkpoint(folder, target, slots, STEPS)
    assert open_pretrained(str(path)).config == apart
    restored = _start(str(path), config, tx)
    _assert_close(restored.params, params)
    _assert_close(restored.opt_state.v_row, state.v_row)
    _assert_close(restored.opt_state.v, state.v)
  _assert_close(found[scanned][0], found[apart][0])
  _assert_close(found[scanned][1], found[apart][1])
  # As T5X's `t5` has them.
  layer = found[scanned][0]["encoder"]["layers_1"]
  assert layer["attention"]["out"]["kernel"].shape == (12, 12)
