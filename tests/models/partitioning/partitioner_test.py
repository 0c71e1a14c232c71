"""Mesh, rules and shardings, on eight simulated devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dss_jax.base.errors import UserError
from dss_jax.models.partitioning import Partitioner, standard_logical_axis_rules
from dss_jax.models.partitioning.logical_axes import NamedParam, named_params
from dss_jax.training import optimizers, train_state

SHAPES = {
  "embedding": jax.ShapeDtypeStruct((64, 8), jnp.float32),
  "mlp": {"wi": jax.ShapeDtypeStruct((8, 16), jnp.float32)},
  "relpos": jax.ShapeDtypeStruct((3, 32), jnp.float32),
  "scale": jax.ShapeDtypeStruct((8,), jnp.float32),
}
AXES = {
  "embedding": ("vocab", "embed"),
  "mlp": {"wi": ("embed", "mlp")},
  "relpos": ("heads", "relpos_buckets"),
  "scale": ("embed",),
}


def spec(partitioner, shape, axes):
  struct = jax.ShapeDtypeStruct(shape, jnp.float32)
  return tuple(partitioner.param_spec(NamedParam("some/kernel", struct, axes)))


class TestRules:
  def test_standard_rules_are_t5x(self):
    rules = standard_logical_axis_rules()
    assert dict(rules) == {
      "batch": "data",
      "vocab": "model",
      "embed": None,
      "mlp": "model",
      "heads": "model",
      "kv": None,
      "joined_kv": "model",
      "relpos_buckets": None,
      "abspos_buckets": None,
      "length": None,
      "layers": None,
      "stack": None,
      "mlp_activations": None,
    }

  @pytest.mark.parametrize(
    ("dims", "kernel", "embedding", "scale"),
    [
      ((1, 1), (None, "model"), ("model", None), (None,)),
      # `embed` gives way to mlp and vocab, which stand earlier.
      ((2, 1), (None, "model"), ("model", None), ("model",)),
      ((1, 2), ("data", "model"), ("model", "data"), ("data",)),
      ((2, 2), ("data", "model"), ("model", "data"), ("model",)),
    ],
  )
  def test_dims(self, dims, kernel, embedding, scale):
    partitioner = Partitioner(
      2, logical_axis_rules=standard_logical_axis_rules(*dims)
    )
    assert spec(partitioner, (8, 16), ("embed", "mlp")) == kernel
    assert spec(partitioner, (64, 8), ("vocab", "embed")) == embedding
    assert spec(partitioner, (8,), ("embed",)) == scale

  def test_additional_rules_and_tuples(self):
    rules = standard_logical_axis_rules(
      additional_rules=[("experts", ("data", "model")), ("rank", None)]
    )
    partitioner = Partitioner(2, logical_axis_rules=rules)
    got = spec(partitioner, (8, 5), ("experts", "rank"))
    assert got == (("data", "model"), None)

  @pytest.mark.parametrize("dims", [(0, 1), (1, 3)])
  def test_other_dims_are_refused(self, dims):
    with pytest.raises(UserError, match="allowed are 1 and 2"):
      standard_logical_axis_rules(*dims)

  def test_colliding_axes_raise(self):
    rules = [("embed", "model"), ("mlp", "model")]
    partitioner = Partitioner(2, logical_axis_rules=rules)
    with pytest.raises(UserError) as error:
      spec(partitioner, (8, 16), ("embed", "mlp"))
    for word in ("'mlp'", "'model'", "['embed']"):
      assert word in str(error.value)
    assert "Partitioner.logical_axis_rules" in error.value.fields
    settled = Partitioner(2, logical_axis_rules=[*rules, ("mlp", None)])
    assert spec(settled, (8, 16), ("embed", "mlp")) == ("model", None)

  def test_unknown_names_raise(self):
    with pytest.raises(UserError, match="'wings'") as error:
      spec(Partitioner(), (8,), ("wings",))
    additional = "standard_logical_axis_rules.additional_rules"
    assert additional in error.value.fields
    with pytest.raises(UserError, match="'expert'"):
      Partitioner(logical_axis_rules=[("mlp", "expert")])
    with pytest.raises(UserError, match=r"\('data', 'data'\)"):
      Partitioner(logical_axis_rules=[("mlp", ("data", "data"))])

  def test_axes_that_do_not_fit_the_parameter_raise(self):
    for axes in (("embed",), ("embed", "embed")):
      with pytest.raises(ValueError, match="wi"):
        list(named_params(SHAPES, AXES | {"mlp": {"wi": axes}}))

  def test_uneven_dimensions_stay_whole(self):
    got = spec(Partitioner(2), (3, 32), ("heads", "relpos_buckets"))
    assert got == (None, None)


class TestMesh:
  @pytest.mark.parametrize(
    ("settings", "shape"),
    [
      ({}, (1, 8, 1)),
      ({"num_partitions": None}, (1, 8, 1)),
      ({"num_partitions": 2}, (1, 4, 2)),
      ({"num_partitions": 8}, (1, 1, 8)),
      ({"model_parallel_submesh": (2, 2, 1, 1)}, (1, 2, 4)),
      ({"fully_sharded_devices": 4}, (2, 4, 1)),
      ({"fully_sharded_devices": 2, "num_partitions": 2}, (2, 2, 2)),
    ],
  )
  def test_shape_and_axis_types(self, settings, shape):
    mesh = Partitioner(**settings).mesh
    axes = ("replica", "data", "model")
    assert dict(mesh.shape) == dict(zip(axes, shape, strict=True))
    assert set(mesh.axis_types) == {AxisType.Auto}

  @pytest.mark.parametrize("num_partitions", [0, 3, 16, -1])
  def test_indivisible_devices(self, num_partitions):
    with pytest.raises(UserError) as error:
      _ = Partitioner(num_partitions).mesh
    for word in (f"is {num_partitions}", "8 devices", "num_partitions"):
      assert word in str(error.value)

  @pytest.mark.parametrize("devices", [0, 3, 8, -1, 2.0, "2"])
  def test_indivisible_copies(self, devices):
    partitioner = Partitioner(2, fully_sharded_devices=devices)
    with pytest.raises(UserError, match=f"is {devices}, .* divisor of 4") as e:
      _ = partitioner.mesh
    assert e.value.fields == ("Partitioner.fully_sharded_devices",)

  def test_two_contradicting_settings(self):
    with pytest.raises(UserError, match="model_parallel_submesh"):
      _ = Partitioner(2, model_parallel_submesh=(2, 2, 1, 1)).mesh

  def test_some_devices(self):
    partitioner = Partitioner(2, devices=jax.devices()[:4])
    assert partitioner.mesh.devices.shape == (1, 2, 2)

  def test_activate_sets_mesh_and_rules(self):
    import flax.linen as nn

    partitioner = Partitioner(2)
    with partitioner.activate() as mesh:
      assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
      assert tuple(nn.get_logical_axis_rules()) == partitioner.rules
    assert jax.sharding.get_abstract_mesh().empty


class TestFullySharded:
  def test_the_vocabulary_or_the_first_whole_dimension_is_split(self):
    partitioner = Partitioner(2, fully_sharded=True, fully_sharded_min_size=0)
    assert spec(partitioner, (8, 16), ("embed", "mlp")) == ("data", "model")
    assert spec(partitioner, (64, 8), ("vocab", "embed")) == ("model", "data")
    data_only = Partitioner(fully_sharded=True, fully_sharded_min_size=0)
    assert spec(data_only, (8, 16), ("embed", "mlp")) == ("data", None)
    assert spec(data_only, (16, 8), ("mlp", "embed")) == ("data", None)
    assert spec(data_only, (8, 16), ("embed", "vocab")) == (None, "data")
    assert spec(data_only, (8, 15), ("embed", "vocab")) == ("data", None)
    # The rank of an adapter, which no rule may split, has no name.
    assert spec(data_only, (8, 16), (None, "mlp")) == (None, "data")
    assert spec(data_only, (8, 15), (None, "mlp")) == (None, None)

  def test_falls_back(self):
    partitioner = Partitioner(fully_sharded=True, fully_sharded_min_size=0)
    assert spec(partitioner, (8, 20), ("embed", "mlp")) == ("data", None)
    assert spec(partitioner, (9, 20), ("embed", "mlp")) == (None, None)

  def test_small_parameters_and_stacked_layers_stay_whole(self):
    partitioner = Partitioner(fully_sharded=True, fully_sharded_min_size=128)
    assert spec(partitioner, (8, 15), ("embed", "mlp")) == (None, None)
    assert spec(partitioner, (8, 16), ("embed", "mlp")) == ("data", None)
    axes = ("layers", "embed", "mlp")
    assert spec(partitioner, (64, 8, 16), axes) == (None, "data", None)
    assert spec(partitioner, (64, 8, 15), axes) == (None, None, None)

  def test_rules_that_use_data_already_are_kept(self):
    partitioner = Partitioner(
      2,
      logical_axis_rules=standard_logical_axis_rules(1, 2),
      fully_sharded=True,
      fully_sharded_min_size=0,
    )
    assert spec(partitioner, (8, 16), ("embed", "mlp")) == ("data", "model")

  def test_copies_are_split_over_their_own_devices(self):
    """And whoever splits the batch over `data` says so of all copies."""
    partitioner = Partitioner(
      fully_sharded=True, fully_sharded_min_size=0, fully_sharded_devices=4
    )
    assert spec(partitioner, (9, 20), ("embed", "mlp")) == (None, "data")
    rules = dict(partitioner.rules)
    assert rules["batch"] == ("replica", "data")
    assert partitioner.batch_shards == 8
    of_ones_own = Partitioner(
      logical_axis_rules=[("batch", "data"), ("embed", "data")]
    ).rules
    assert of_ones_own == (("batch", ("replica", "data")), ("embed", "data"))
    state, _ = state_of(partitioner, optimizers.AdamW())
    stored = {}
    for shard in state.params["mlp"]["wi"].addressable_shards:
      stored.setdefault(str(shard.index), []).append(shard.data)
    assert [len(copies) for copies in stored.values()] == [2] * 4


class ToyModel:
  """Parameters of `SHAPES`; enough to make a state."""

  def init(self, key):
    leaves, structure = jax.tree.flatten(SHAPES)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
      jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)
    )

  def param_axes(self):
    return AXES


def constant(step):
  del step
  return jnp.float32(0.1)


def state_of(partitioner, optimizer):
  tx = optimizer.transform(constant, SHAPES, AXES)
  return train_state.init_state(ToyModel(), tx, partitioner, jax.random.key(0))


def part(array):
  """The shape each device stores, checked on every device's actual buffer."""
  shapes = {shard.data.shape for shard in array.addressable_shards}
  assert len(array.addressable_shards) == 8
  assert len(shapes) == 1
  return shapes.pop()


class TestState:
  def test_adafactor_moments_are_split_with_their_parameters(self):
    state, shardings = state_of(
      Partitioner(2, fully_sharded=True, fully_sharded_min_size=100),
      optimizers.Adafactor(min_dim_size_to_factor=8),
    )
    parts = jax.tree.map(part, state)
    assert parts.params == {
      "embedding": (32, 2),
      "mlp": {"wi": (2, 8)},
      "relpos": (3, 32),
      "scale": (8,),
    }
    # Factors take the split of the dimension they keep.
    assert parts.opt_state.v_row["mlp"]["wi"] == (2,)  # embed over data
    assert parts.opt_state.v_col["mlp"]["wi"] == (8,)  # mlp over model
    assert parts.opt_state.v_row["embedding"] == (2,)
    assert parts.opt_state.v_col["embedding"] == (32,)
    assert parts.opt_state.v["embedding"] == (1,)
    assert parts.opt_state.v["relpos"] == (3, 32)
    assert parts.step == parts.opt_state.count == ()
    same = jax.tree.map(lambda x, s: x.sharding == s, state, shardings)
    assert all(jax.tree.leaves(same))

  def test_adam_moments_are_split_like_their_parameters(self):
    state, _ = state_of(Partitioner(4), optimizers.AdamW())
    adam = state.opt_state[0]
    for tree in (state.params, adam.mu, adam.nu):
      parts = jax.tree.map(part, tree)
      assert parts["embedding"] == (16, 8)
      assert parts["mlp"]["wi"] == (8, 4)
      assert parts["scale"] == (8,)
    assert part(adam.count) == ()

  def test_values_do_not_depend_on_the_mesh(self):
    optimizer = optimizers.AdamW()
    one, _ = state_of(Partitioner(devices=jax.devices()[:1]), optimizer)
    for fully_sharded_devices in (None, 2):
      partitioner = Partitioner(
        2,
        fully_sharded=True,
        fully_sharded_min_size=0,
        fully_sharded_devices=fully_sharded_devices,
      )
      many, _ = state_of(partitioner, optimizer)
      jax.tree.map(np.testing.assert_array_equal, one, many)

  def test_factors_of_a_square_parameter_stay_whole(self):
    shapes = {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    tx = optimizers.Adafactor(min_dim_size_to_factor=8).transform(
      constant, shapes
    )
    shapes = jax.eval_shape(
      lambda: train_state.TrainState.create({"w": jnp.ones((8, 8))}, tx)
    )
    shardings = Partitioner(2).state_shardings(shapes, {"w": ("embed", "mlp")})
    assert shardings.params["w"].spec == P(None, "model")
    assert shardings.opt_state.v_row["w"].spec == P()

  def test_state_from_params_keeps_and_copies_them(self):
    partitioner = Partitioner(2)
    params = ToyModel().init(jax.random.key(3))
    tx = optimizers.AdamW().transform(constant, params, AXES)
    state, shardings = train_state.state_from_params(
      params, tx, partitioner, AXES
    )
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    same = jax.tree.map(lambda x, s: x.sharding == s, state, shardings)
    assert all(jax.tree.leaves(same))
    jax.tree.map(lambda x: x.delete(), state.params)
    assert np.isfinite(params["scale"]).all()  # the caller's are still there


class TestBatch:
  @pytest.mark.parametrize("fully_sharded_devices", [None, 2])
  def test_rows_go_over_all_copies(self, fully_sharded_devices):
    partitioner = Partitioner(2, fully_sharded_devices=fully_sharded_devices)
    batch = {"x": np.arange(16).reshape(8, 2), "y": np.arange(8.0)}
    put = partitioner.put_batch(batch)
    assert part(put["x"]) == (2, 2)
    np.testing.assert_array_equal(put["x"], batch["x"])
    np.testing.assert_array_equal(put["y"], batch["y"])
    first = put["x"].addressable_shards[0]
    np.testing.assert_array_equal(first.data, batch["x"][first.index])

  def test_process_rows_of_a_single_host_are_all(self):
    assert Partitioner(2).process_rows(8).tolist() == list(range(8))

  @pytest.mark.parametrize("rows", [6, 0, 3])
  def test_indivisible_batch_is_one_clear_line(self, rows):
    partitioner = Partitioner(2)
    batch = {"x": np.zeros((rows, 2))}
    for call in (
      lambda: partitioner.put_batch(batch),
      lambda: partitioner.process_rows(rows),
      lambda: partitioner.check_batch_size(rows),
    ):
      with pytest.raises(UserError) as error:
        call()
      message = str(error.value)
      assert "\n" not in message
      for word in (
        "batch_size",
        f"is {rows} ",
        "8 devices",
        "num_partitions=2",
      ):
        assert word in message

  def test_micro_batches_count_too(self):
    partitioner = Partitioner(2)
    partitioner.check_batch_size(8, num_microbatches=2)
    with pytest.raises(UserError, match=r"3 micro-batches; set .* to 12"):
      partitioner.check_batch_size(8, num_microbatches=3)


def test_the_splits_of_a_tree():
  partitioner = Partitioner(2, fully_sharded=True, fully_sharded_min_size=100)
  assert partitioner.param_specs(SHAPES, AXES) == {
    "embedding": P("model", "data"),
    "mlp": {"wi": P("data", "model")},
    "relpos": P(None, None),
    "scale": P(None),
  }


def test_partitioner_is_plain_configuration():
  assert dataclasses.asdict(Partitioner()) == {
    "num_partitions": 1,
    "model_parallel_submesh": None,
    "logical_axis_rules": None,
    "fully_sharded": False,
    "fully_sharded_min_size": 16384,
    "fully_sharded_devices": None,
    "devices": None,
  }
