"""Steps and kernels compiled for TPU slices that are not here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dss_jax.base.errors import UserError
from dss_jax.models.kernels import attention_kernels
from dss_jax.models.partitioning import Partitioner, place
from dss_jax.planning import compiled_step, plan_tables, run_plan, tpu_topology

# An excerpt of what the TPU compiler writes.
PROGRAM = """\
  %a.1 = (f32[8]{0:T(128)}, f32[8]{0}) custom-call(%x), custom_call_target="tpu_custom_call", operand_layout_constraints={f32[8]{0}}, metadata={op_name="jit(step)/jvp(encoder)/jit(some_kernel)/pallas_call" stack_frame_id=3}
  %a.2 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/encoder/row_attention/pallas_call"}
  %a.3 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"
  %a.4 = f32[8]{0} custom-call(%x), custom_call_target="AllocateBuffer"
"""

needs_compiler = [
  # Programs for devices that are not here can be cached, but not read again.
  pytest.mark.filterwarnings("ignore:Error reading persistent compilation"),
  pytest.mark.tpu_compiler,
  pytest.mark.skipif(
    not tpu_topology.has_compiler(),
    reason="the TPU compiler is not installed (pip install libtpu)",
  ),
]


def test_without_a_compiler_one_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(tpu_topology, "has_compiler", lambda: False)
  with pytest.raises(UserError, match="pip install libtpu") as caught:
    tpu_topology.devices("v5e:2x4")
  assert caught.value.fields == ("plan_topology",)


def test_kernels_are_counted_by_name():
  assert compiled_step.kernels_in(PROGRAM) == {
    "some_kernel": 1,
    "row_attention": 1,
    "tpu_custom_call": 1,
  }


@pytest.mark.parametrize(
  ("refusal", "gibibytes"),
  [
    ("Used 21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G.", 21.5),
    ("required for HLO temporaries (22.00G) exceeds available (15.75G)", 22),
    ("no size", 0),
  ],
)
def test_a_refusal_says_what_the_step_needs(refusal, gibibytes):
  assert run_plan._bytes_refused(refusal) == gibibytes * 2**30


class TestCompiler:
  pytestmark = needs_compiler

  def test_a_slice_that_does_not_exist(self):
    for topology in ("v5e:3x3", "x*v5e:2x2", "0*v5e:2x2", "-1*v5e:2x2"):
      with pytest.raises(UserError, match=r"'.*v5e:.*'.*such as v5e:4x4"):
        tpu_topology.devices(topology)

  def test_several_slices_hold_a_copy_each(self):
    partitioner = Partitioner(devices=tpu_topology.devices("2*v5e:2x4"))
    devices = partitioner.mesh.devices
    assert devices.shape == (2, 8, 1)
    for index, copy in enumerate(devices):
      assert {device.slice_index for device in copy.flat} == {index}

  def test_arrays_on_described_devices_stay_shapes(self):
    partitioner = Partitioner(devices=tpu_topology.devices("v5e:2x2"))
    placed = place(np.ones(8, np.float32), partitioner.batch_sharding())
    assert isinstance(placed, jax.ShapeDtypeStruct)
    assert placed.sharding.shard_shape(placed.shape) == (2,)

  @pytest.mark.parametrize(
    ("topology", "num_partitions"),
    [("v5e:4x4", 1), ("v5e:16x16", 1), ("v5p:2x2x2", 2), ("v5p:4x4x4", 2)],
  )
  def test_hosts_share_the_rows_of_a_batch(
    self, topology, num_partitions, monkeypatch
  ):
    """Wherever their chips are on the mesh, as often as rows are repeated."""
    partitioner = Partitioner(
      num_partitions, devices=tpu_topology.devices(topology)
    )
    devices = partitioner.mesh.devices
    rows_split = devices.size // num_partitions
    assert devices.shape == (1, rows_split, num_partitions)
    found, rows = [], 2 * partitioner.batch_shards
    for host in sorted({device.process_index for device in devices.flat}):
      monkeypatch.setattr(jax, "process_index", lambda host=host: host)
      of_host = partitioner.process_rows(rows)
      assert (np.diff(of_host) > 0).all()
      found.extend(of_host.tolist())
    assert sorted(set(found)) == list(range(rows))
    assert len(found) <= rows * num_partitions

  def test_the_attention_kernel(self):
    """Forward and backward, in the form that the student calls.

    Neither scores nor a bias for each row are anywhere but in the fast memory.
    """
    mesh = jax.make_mesh(
      (8, 1),
      ("data", "model"),
      axis_types=(AxisType.Auto,) * 2,
      devices=tpu_topology.devices("v5e:2x4"),
    )

    def shape(*sizes, dtype=jnp.bfloat16, split=True):
      sharding = NamedSharding(mesh, P("data") if split else P())
      return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    def loss(query, key, value, position, segments):
      bias = attention_kernels.SegmentBias(
        position, segments, segments, False, "flash"
      )
      x = attention_kernels.attention(query, key, value, bias)
      return x.astype(jnp.float32).sum()

    attended = shape(64, 12, 256, 64)
    with (
      jax.set_mesh(mesh),
      attention_kernels.constraints.logical_axis_rules((("batch", "data"),)),
    ):
      lowered = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3))).lower(
        *[attended] * 3,
        shape(1, 12, 256, 256, split=False),
        shape(64, 256, dtype=jnp.int32),
      )
    compiled = lowered.compile()
    kernels = compiled_step.kernels_in(compiled.as_text() or "")
    assert kernels == {"row_attention": 1, "row_attention_gradient": 1}
    scores_of_a_row = 2 * 12 * 256 * 256
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 8 * scores_of_a_row

  @pytest.mark.slow
  def test_copies_scatter_their_gradients(self, run):
    """Each chip sums the part that it stores; then copies sum the parts."""
    side = 4
    planned = run(
      "base",
      (320, 64, 32),
      partitioner=Partitioner(
        fully_sharded=True,
        fully_sharded_devices=side,
        devices=tpu_topology.devices("v5e:4x4"),
      ),
      vocab_size=4096,
      num_encoder_layers=2,
      num_decoder_layers=2,
      scan_layers=True,
      remat_policy="full",
    )
    step = compiled_step.compile_step(planned)
    assert isinstance(step, compiled_step.CompiledStep)
    stored = [param for param in planned.placed_params() if param.fetched]
    assert len(stored) > 10
    # In bfloat16, but for the two tables outside the layers.
    whole = sum(param.bytes for param in stored if param.in_layer) // 2
    whole += sum(param.bytes for param in stored if not param.in_layer)
    scattered = step.traffic.of_kind("reduce-scatter")
    assert {each.group_size for each in scattered} == {side}
    size = sum(each.bytes_per_step for each in scattered)
    assert whole <= size < 1.01 * whole  # some are filled up to whole tiles
    between = summed = 0
    for each in step.traffic.of_kind("all-reduce"):
      if each.group_size == side:
        between += each.bytes_per_step
      else:
        summed += each.bytes_per_step
    assert between == pytest.approx(whole / side, rel=0.01)
    # Only of what is stored whole: norms and biases of positions.
    assert summed < 0.01 * whole

  @pytest.mark.slow
  def test_the_step_of_t5_base(self, run):
    """A plan for a slice chooses what the slice would, and is compiled."""
    make = functools.partial(
      run,
      "base",
      (64, 256, 128),
      partitioner=Partitioner(devices=tpu_topology.devices("v5e:2x4")),
      scan_layers=True,
      remat_policy="full",
    )
    found = run_plan.make_plan(make(), attempts=0)
    assert found.memory == 16 * 2**30
    assert found.step is not None
    assert found.total is not None
    assert found.step.temporaries is not None
    # The gradients at the least, and no more than the chip has.
    assert found.gradients < found.step.temporaries < found.memory
    assert found.step.kernels["row_attention"] > 0
    # Every gradient is summed over the chips.
    assert found.step.traffic.uncounted_loops <= 1
    assert found.step.traffic.bytes_per_step("all-reduce") > 0
    values = plan_tables.as_json(found)
    assert values["backend"] == "tpu"
    assert values["device_kind"] == "TPU v5 lite"
    assert "hand-written kernels: " in plan_tables.as_text(found)
