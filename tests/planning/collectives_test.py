"""Reading what devices send each other out of programs' text."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dss_jax.planning import collectives

# A scan of three layers in a loop of two micro-batches, a loop of unknown
# length, asynchronous operations, a fusion and a call: as XLA writes them.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%layer (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %ag = f32[1,32,64]{2,1,0} all-gather(%w), channel_id=1, replica_groups=[1,8]<=[8], dimensions={2}, use_global_device_ids=true, metadata={op_name="jit(step)/layer/kernel"}
  ROOT %t = (s32[], f32[8]) tuple(%i, %x)
}

%micro (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (s32[], f32[8]{0}) while(%p), condition=%c, body=%layer, backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
  %ar = (f32[48]{0}, /*index=1*/bf16[48,96]{1,0}) all-reduce(%a, %b), channel_id=2, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%add
  ROOT %t = (s32[], f32[8]) tuple(%i, %x)
}

%until (p: f32[4]) -> f32[4] {
  ROOT %cp = f32[4]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

%wrapped (p: f32[64]) -> f32[8] {
  ROOT %rs = f32[8]{0} reduce-scatter(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%add
}

%inner (p: s32[16]) -> s32[16] {
  ROOT %a2a = s32[16]{0} all-to-all(%p), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %while.2 = (s32[], f32[8]{0}) while(%p), condition=%c, body=%micro, backend_config={"known_trip_count":{"n":"2"}}
  %while.3 = f32[4]{0} while(%q), condition=%c2, body=%until
  %start = ((f32[64]{0}), f32[8]{0}) async-start(%g), calls=%wrapped
  %update = ((f32[64]{0}), f32[8]{0}) async-update(%start), calls=%wrapped
  %done = f32[8]{0} async-done(%update), calls=%wrapped
  %call = s32[16]{0} call(%z), to_apply=%inner
  %ags = (f32[4]{0}, pred[16]{0}, f32[8]{0}, pred[32]{0}) all-gather-start(%a, %b), replica_groups={{0,1},{2,3}}, dimensions={0}
  %agd = (f32[8]{0}, pred[32]{0}) all-gather-done(%ags)
  %cps = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}
  %alone = f32[1000]{0} all-reduce(%a), replica_groups={{0},{1}}, to_apply=%add
  ROOT %all = f32[2]{0} all-reduce-start(%a), replica_groups={}, to_apply=%add
}
"""


def test_every_collective_is_counted_as_often_as_it_runs():
  traffic = collectives.read(PROGRAM, 8)
  found = [
    (one.kind, one.group_size, one.times, one.bytes)
    for one in traffic.collectives
  ]
  assert found == [
    ("all-gather", 8, 6, 32 * 64 * 4),
    ("all-reduce", 4, 2, 48 * 4 + 48 * 96 * 2),
    ("collective-permute", 8, 1, 16),
    ("reduce-scatter", 8, 1, 64 * 4),
    ("all-to-all", 2, 1, 64),
    ("all-gather", 2, 1, 8 * 4 + 32),
    ("collective-permute", 8, 1, 16),
    ("all-reduce", 8, 1, 8),
  ]
  assert traffic.collectives[0].op_name == "jit(step)/layer/kernel"
  assert traffic.uncounted_loops == 1
  assert traffic.bytes_per_step("all-gather") == 6 * 8192 + 64
  assert traffic.bytes_per_step() == sum(n * b for _, _, n, b in found)


# Parts of an asynchronous all-gather in fusions of a loop's body, and sums that
# are scattered, all on one channel, as TPU programs have them; a loop that counts
# from zero, and one that does not say.
TPU_PROGRAM = """\
%start (p: bf16[1,512]) -> (bf16[1,512], bf16[1,1024]) {
  %ag.1 = bf16[1,1024]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=16, replica_groups=[2,2]<=[4], dimensions={1}
  ROOT %c = (bf16[1,512], bf16[1,1024]) custom-call(%ag.1)
}

%done (p: bf16[1,512]) -> bf16[1,1024] {
  ROOT %ag.2 = bf16[1,1024]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=16, replica_groups=[2,2]<=[4], dimensions={1}
}

%all-reduce-scatter.7 (p: bf16[64,8], q: bf16[8,8]) -> (bf16[32,8], bf16[4,8]) {
  %ar.1 = (bf16[64,8]{1,0:T(8,128)(2,1)}, bf16[8,8]{1,0:T(8,128)(2,1)}) all-reduce(%p, %q), channel_id=1, replica_groups=[2,2]<=[4], to_apply=%add
  ROOT %t = (bf16[32,8], bf16[4,8]) tuple(%s.1, %s.2)
}

%all-reduce-scatter.8 (p: bf16[64,8]) -> bf16[32,8] {
  %ar.2 = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%p), channel_id=1, replica_groups=[2,2]<=[4], to_apply=%add
  ROOT %s.3 = bf16[32,8] dynamic-slice(%ar.2, %i, %z), dynamic_slice_sizes={32,8}
}

%layer (p: (s32[], bf16[1,512])) -> (s32[], bf16[1,512]) {
  %f.3 = (bf16[32,8], bf16[4,8]) fusion(%g, %h), kind=kCustom, calls=%all-reduce-scatter.7
  %f.4 = bf16[32,8] fusion(%k), kind=kCustom, calls=%all-reduce-scatter.8
  %f.1 = (bf16[1,512], bf16[1,1024]) fusion(%x), kind=kCustom, calls=%start
  %f.2 = bf16[1,1024] fusion(%f.1), kind=kCustom, calls=%done
  ROOT %t = (s32[], bf16[1,512]) tuple(%i, %x)
}

%below (p: (s32[], bf16[1,512])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %p = (s32[]{:T(128)}, bf16[1,512]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%until (p: (s32[], s32[])) -> pred[] {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: bf16[1,512]) -> bf16[1,512] {
  %while.1 = (s32[], bf16[1,512]) while(%p), condition=%below, body=%layer
  %while.2 = (s32[], bf16[1,512]) while(%q), condition=%until, body=%layer
  ROOT %x = bf16[1,512] get-tuple-element(%while.1), index=1
}
"""


def test_fused_collectives_and_loops_that_count_from_zero():
  traffic = collectives.read(TPU_PROGRAM, 4)
  found = [
    (one.kind, one.group_size, one.times, one.bytes)
    for one in traffic.collectives
  ]
  layer = [
    ("reduce-scatter", 1024 + 128),
    ("reduce-scatter", 1024),
    ("all-gather", 2048),
  ]
  assert found == [
    (kind, 2, times, size) for times in (5, 1) for kind, size in layer
  ]
  assert traffic.uncounted_loops == 1


def test_what_a_ring_sends():
  def sent(kind, size):
    found = collectives.Collective(kind, (("f32", (25,)),), size, 3, "")
    return found.sent_per_step

  assert sent("all-reduce", 4) == pytest.approx(3 * 100 * 2 * 3 / 4)
  assert sent("all-gather", 4) == sent("reduce-scatter", 4)
  assert sent("all-gather", 4) == pytest.approx(3 * 100 * 3 / 4)
  assert sent("collective-permute", 8) == 300


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("replica_groups={{0,2},{1,3}}", 2),
    ("replica_groups={}", 8),
    ("replica_groups=[2,4]<=[8]", 4),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
    ("replica_groups=@mesh['a'=2,'b'=4], device_ids=(0) {'a','b'}", 8),
    ("replica_groups=mesh['a'=8] {'a':(2)2}", 2),
  ],
)
def test_groups_in_every_notation(groups, size):
  line = (
    f"  %x = f32[2]{{0}} all-reduce(%a), channel_id=1, {groups}, to_apply=%s"
  )
  program = f"ENTRY %main (a: f32[2]) -> f32[2] {{\n{line}\n}}\n"
  (found,) = collectives.read(program, 8).collectives
  assert found.group_size == size


def test_a_program_as_compiled_here():
  """Loops, groups and sizes in the dialect of the XLA at hand."""
  mesh = jax.make_mesh(
    (4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2
  )

  @jax.jit
  def step(weights, x):
    def layer(x, w):
      return jnp.tanh(x @ w @ w.T), None  # summed over `model` in each layer

    x, _ = jax.lax.scan(layer, x, weights)
    return jnp.sum(x)

  def place(shape, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

  compiled = step.lower(
    place((5, 8, 6), None, None, "model"), place((16, 8), "data")
  ).compile()
  traffic = collectives.read(compiled.as_text() or "", 8)
  found = {
    (one.kind, one.group_size, one.times, one.bytes)
    for one in traffic.collectives
  }
  assert ("all-reduce", 2, 5, 4 * 8 * 4) in found
  assert ("all-reduce", 4, 1, 4) in found
  assert traffic.uncounted_loops == 0


# Parts of a sum go around a ring, two steps at a time.
RING_PROGRAM = """\
%turn (p: (bf16[64,8], u32[])) -> (bf16[64,8], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %p = (bf16[64,8], /*index=1*/u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %a = bf16[64,8] get-tuple-element(%p), index=0
  %b = bf16[64,8] collective-permute(%a), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %c = bf16[64,8] collective-permute(%b), channel_id=2, source_target_pairs={{0,1},{1,0}}
  %next = u32[]{:T(128)} add(%i, %two)
  ROOT %t = (bf16[64,8], /*index=1*/u32[]) tuple(%c, /*index=1*/%next)
}

%below (p: (bf16[64,8], u32[])) -> pred[] {
  %seven = u32[]{:T(128)} constant(7)
  %p = (bf16[64,8], u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i, %seven), direction=LT
}

ENTRY %main (p: (bf16[64,8], u32[])) -> (bf16[64,8], u32[]) {
  ROOT %while.1 = (bf16[64,8], u32[]) while(%p), condition=%below, body=%turn
}
"""


def test_loops_that_count_in_steps():
  traffic = collectives.read(RING_PROGRAM, 2)
  assert traffic.uncounted_loops == 0
  assert [each.times for each in traffic.collectives] == [4, 4]
