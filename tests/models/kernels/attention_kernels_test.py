"""Kernels for attention: against plain attention, and when which is chosen."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.models import layer_parts
from dss_jax.models.config import T5Config
from dss_jax.models.kernels import (
  attention_kernels,
  attention_proof,
  cudnn_attention,
  tpu_flash_attention,
  triton_flash_attention,
)
from dss_jax.models.partitioning import constraints

# Queries, keys, position bias, causal: encoder, decoder, decoder to encoder.
KINDS = {
  "encoder": (1, 1, True, False),
  "decoder": (1, 1, True, True),
  "cross": (1, 2, False, False),
}
CONFIG = T5Config(vocab_size=32, dtype="bfloat16", head_dim=64)
BATCH = (3, 2)


def _disproof(attend, kind, block, dtype="float32", head_dim=16):
  queries, keys, position, causal = KINDS[kind]
  return attention_proof.disproof(
    functools.partial(attend, causal=causal),
    head_dim=head_dim,
    query_length=queries * block,
    key_length=keys * block,
    position=position,
    causal=causal,
    dtype=dtype,
  )


def _with(**fields):
  return dataclasses.replace(CONFIG, **fields)


# --------------------------------------------------- values and all gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
  "form", ["codes", pytest.param("dense", marks=pytest.mark.slow)]
)
def test_what_cudnn_is_asked_for_is_attention(kind, form):
  """All but cuDNN itself: the same inputs, to XLA's own attention."""
  attend = functools.partial(
    cudnn_attention.attention, form=form, implementation="xla"
  )
  assert _disproof(attend, kind, 32, "bfloat16") is None


@pytest.mark.parametrize(
  "kind",
  ["decoder", "cross", pytest.param("encoder", marks=pytest.mark.slow)],
)
def test_triton_kernels_are_attention(kind):
  # Blocks of 16 tokens, several in a row.
  assert _disproof(triton_flash_attention.attention, kind, 48) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_triton_kernels_are_attention_in_bfloat16(kind):
  attend = triton_flash_attention.attention
  assert _disproof(attend, kind, 192, "bfloat16", head_dim=64) is None


@pytest.mark.parametrize(
  ("kind", "head_dim"),
  [
    ("decoder", 64),
    ("cross", 16),
    pytest.param("encoder", 128, marks=pytest.mark.slow),
    pytest.param("encoder", 16, marks=pytest.mark.slow),
  ],
)
def test_tpu_kernels_are_attention(kind, head_dim):
  # Two heads: a quarter of what the lanes hold of 16 dimensions.
  attend = tpu_flash_attention.attention
  assert _disproof(attend, kind, 40, head_dim=head_dim) is None


@pytest.mark.device
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cudnn", "cudnn_dense", "triton", "flash"])
@pytest.mark.parametrize("block", [96, 256, 512])
def test_kernels_are_attention_on_the_device(name, kind, block):
  form = {"form": "dense"} if name == "cudnn_dense" else {}
  name = name.removesuffix("_dense")
  if jax.default_backend() != attention_kernels._PLATFORMS[name]:
    pytest.skip(f"{name} does not run on {jax.default_backend()}")
  attend = functools.partial(attention_kernels._KERNELS[name], **form)
  assert _disproof(attend, kind, block, "bfloat16", head_dim=64) is None


# ------------------------------------------------------------- the proof itself


def _plain_but(change):
  """Plain attention with one thing about it changed."""

  def attend(query, key, value, position, q_ids, k_ids, *, causal):
    return attention_proof.plain_attention(
      *change(query, key, value, position, q_ids, k_ids), causal=causal
    )

  return attend


@pytest.mark.parametrize(
  ("change", "found"),
  [
    (lambda q, k, v, p, a, b: (q, k, v, p, a, b), None),
    (
      lambda q, k, v, p, a, b: (q, k, v, jax.lax.stop_gradient(p), a, b),
      "its position gradient is 100.0 % off",
    ),
    (lambda q, k, v, p, a, b: (q, k, v, p, a > 0, b > 0), "its values"),
    (lambda q, k, v, p, a, b: (q / 4, k, v, p, a, b), "its values"),
    (
      lambda q, k, v, p, a, b: (q, jax.lax.stop_gradient(k), v, p, a, b),
      "its key gradient is 100.0 % off",
    ),
  ],
)
def test_proof_finds_what_is_wrong(change, found):
  reason = _disproof(_plain_but(change), "decoder", 32, "bfloat16")
  assert (reason or "").startswith(found or "")
  assert (reason is None) == (found is None)


def test_proof_refuses_padding_that_is_not_finite():
  def attend(query, key, value, position, q_ids, k_ids, *, causal):
    x = attention_proof.plain_attention(
      query, key, value, position, q_ids, k_ids, causal=causal
    )
    return jnp.where((q_ids > 0)[:, None, :, None], x, jnp.nan)

  with pytest.raises(ValueError, match="not finite"):
    _disproof(attend, "encoder", 32)


# -------------------------------------------------------------- codes and blocks


def _draw(*shape, scale=1.0, seed=0):
  x = scale * np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.bfloat16)


@jax.jit
def _codes(query, key, value, segments):
  return cudnn_attention.attention(
    query,
    key,
    value,
    None,
    segments,
    segments,
    causal=False,
    implementation="xla",
  ).astype(jnp.float32)


def test_codes_hide_other_segments_whatever_their_ids_and_scores():
  segments = jnp.arange(1, 256, dtype=jnp.int32)[None]
  query, value = _draw(1, 1, 255, 8), _draw(1, 1, 255, 8, seed=1)
  # Scores of some hundreds, all for others' keys: each sees but itself.
  key = -30 * query
  found = _codes(query, key, value, segments)
  np.testing.assert_array_equal(found, value.astype(jnp.float32))


def test_codes_fail_loudly_on_more_segments_than_they_have_bits_for():
  x = _draw(1, 1, 2, 8)
  assert np.isfinite(_codes(x, x, x, jnp.array([[1, 255]]))).all()
  assert np.isnan(_codes(x, x, x, jnp.array([[1, 256]]))).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_blocks_with_something_to_see_are_connected(ordered, causal):
  rng = np.random.default_rng(0)
  q, k = rng.integers(0, 7, (20, 64)), rng.integers(0, 7, (20, 128))
  if ordered:
    q, k = np.sort(q), np.sort(k)
  same = (q[:, :, None] == k[:, None]) & (k[:, None] > 0)
  if causal:
    same &= np.tri(64, 128, dtype=bool)
  needed = same.reshape(20, 1, 64, 2, 64).any((2, 4))
  connected = np.asarray(
    triton_flash_attention.connected_blocks(
      jnp.asarray(q), jnp.asarray(k), causal=causal
    )
  )
  assert connected.shape == needed.shape
  assert (connected | ~needed).all()


def test_packed_rows_leave_most_blocks_out():
  segments = jnp.repeat(jnp.arange(1, 9), 64)[None]
  connected = triton_flash_attention.connected_blocks(
    segments, segments, causal=False
  )
  np.testing.assert_array_equal(connected[0], np.eye(8, dtype=bool))


# ------------------------------------------------------------------- the choice


@pytest.fixture
def gpu(monkeypatch):
  """As if a GPU were there, and right about everything."""
  monkeypatch.setattr(constraints, "platform", lambda: "gpu")
  monkeypatch.setenv(attention_kernels.PROOF_VARIABLE, "0")


def _choose(config, queries=256, keys=256, *, training=True):
  return attention_kernels.choose(
    config, queries, keys, position=True, causal=False, training=training
  )


@pytest.mark.parametrize(
  ("platform", "kind", "chosen"),
  [("tpu", "TPU v5 lite", "flash"), ("gpu", "NVIDIA H100 80GB HBM3", "cudnn")],
)
def test_the_mesh_says_what_the_platform_is(platform, kind, chosen):
  """Its devices need not be here; nothing can be proved on them then."""
  device = jax.sharding.AbstractDevice(
    device_kind=kind, num_cores=None, platform=platform
  )
  mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh):
    assert _choose(CONFIG) == chosen
  assert _choose(CONFIG) == "xla"


def test_plain_attention_is_what_a_cpu_gets():
  assert _choose(CONFIG) == "xla"
  assert _choose(_with(attention_implementation="xla")) == "xla"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
  ("fields", "lengths", "chosen"),
  [
    ({}, (256, 256), "cudnn"),
    ({"dropout_rate": 0.1}, (256, 256), "cudnn"),
    ({"dtype": "float32"}, (256, 256), "xla"),
    ({"head_dim": 63}, (256, 256), "xla"),
    ({"head_dim": 128}, (256, 256), "xla"),
    ({"head_dim": 120}, (256, 512), "cudnn"),
    ({"head_dim": 120}, (256, 1024), "xla"),
    ({}, (255, 256), "xla"),
    ({}, (1, 256), "xla"),
    ({"dropout_rate": 0.1, "dropout_broadcast": "full"}, (256, 256), "xla"),
    (
      {
        "dropout_rate": 0.1,
        "dropout_broadcast": "full",
        "attention_dropout": False,
      },
      (256, 256),
      "cudnn",
    ),
    ({"attention_implementation": "xla"}, (256, 256), "xla"),
    ({"attention_implementation": "triton"}, (96, 512), "triton"),
  ],
)
def test_rules_of_the_choice(fields, lengths, chosen):
  assert _choose(_with(**fields), *lengths) == chosen


@pytest.mark.usefixtures("gpu")
def test_full_dropout_matters_only_where_it_is_drawn():
  config = _with(dropout_rate=0.1, dropout_broadcast="full")
  assert _choose(config, training=False) == "cudnn"
  with pytest.raises(UserError, match="attention_dropout = False"):
    _choose(dataclasses.replace(config, attention_implementation="cudnn"))


@pytest.mark.parametrize(
  ("fields", "lengths", "message"),
  [
    ({"attention_implementation": "cudnn"}, (256, 256), "runs on gpu"),
    ({"attention_implementation": "flash"}, (90, 96), "multiples of 8"),
    ({"attention_implementation": "flash"}, (2048, 2048), "fast memory"),
    (
      {"attention_implementation": "flash", "head_dim": 48},
      (32, 32),
      "head_dim 16, 32",
    ),
    ({"attention_implementation": "triton"}, (17, 32), "multiples of 16"),
    (
      {"attention_implementation": "triton", "head_dim": 48},
      (32, 32),
      "head_dim 16, 32, 64 or 128",
    ),
  ],
)
def test_what_was_asked_for_by_name_is_not_replaced(fields, lengths, message):
  with pytest.raises(UserError, match=message) as raised:
    _choose(_with(**fields), *lengths)
  assert raised.value.fields == ("T5Config.attention_implementation",)
  assert "\n" not in str(raised.value)


def _broken(*args, causal):
  query, key, value, position, *segments = args
  position = jax.lax.stop_gradient(position)
  return attention_proof.plain_attention(
    query, key, value, position, segments[0], segments[1], causal=causal
  )


def _failing(*_, causal):
  raise RuntimeError("no such\nsymbol")


@pytest.mark.parametrize(
  ("kernel", "reason"),
  [
    (_broken, "position gradient is 100.0 % off"),
    (_failing, r"fails on this device \(no such symbol\)"),
  ],
)
def test_a_kernel_that_is_wrong_here_is_not_used(
  kernel, reason, monkeypatch, caplog
):
  monkeypatch.setattr(constraints, "platform", lambda: "gpu")
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setitem(attention_kernels._KERNELS, "cudnn", kernel)
  attention_kernels._disproof.cache_clear()
  attention_kernels._log_once.cache_clear()
  monkeypatch.setattr(attention_kernels, "_LOG_LEVEL", logging.WARNING)
  for _ in range(2):  # while another function is traced; it is logged once

    def trace(x):
      assert _choose(CONFIG, 32, 32) == "xla"
      return x

    jax.make_jaxpr(trace)(1.0)
  (record,) = caplog.records
  assert "\n" not in record.getMessage()
  with pytest.raises(UserError, match=reason):
    _choose(_with(attention_implementation="cudnn"), 32, 32)
  attention_kernels._disproof.cache_clear()


# ------------------------------------------------------- dropout, mesh, lowering


def test_dropping_values_is_dropping_probabilities():
  config = T5Config(vocab_size=4, num_heads=2, head_dim=4, dropout_rate=0.5)
  module = layer_parts.MultiHeadDotProductAttention(config, False)
  rngs = {"dropout": jax.random.key(0)}
  drop = functools.partial(module.apply, {}, method="_drop", rngs=rngs)
  rng = np.random.default_rng(0)
  probabilities, values = rng.random((3, 2, 5, 7)), rng.random((3, 2, 7, 4))
  factors, _ = drop(jnp.ones((3, 2, 7, 1)), 5)
  dropped, keep = drop(jnp.asarray(values), 5)
  assert keep is None
  assert set(np.unique(factors)) == {0.0, 2.0}
  np.testing.assert_allclose(
    probabilities @ np.asarray(dropped),
    (probabilities * np.asarray(factors).swapaxes(2, 3)) @ values,
    rtol=1e-5,
  )


def _lowered(attend, platform, lengths, *, position, causal):
  """The program of values and gradients for a platform that is not here."""
  q, k = ((14, 12, n, 64) for n in lengths)
  shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in (q, k, k)]
  bias = jax.ShapeDtypeStruct((1, 12, *lengths), jnp.bfloat16)
  ids = [jax.ShapeDtypeStruct((14, n), jnp.int32) for n in lengths]

  def loss(query, key, value, bias, *ids):
    x = attend(
      query, key, value, bias if position else None, *ids, causal=causal
    )
    return x.astype(jnp.float32).sum()

  gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
  traced = gradient.trace(*shapes, bias, *ids)
  return traced.lower(lowering_platforms=(platform,)).as_text()


# JAX 0.12 warns that this way to Triton ends with a later version.
@pytest.mark.filterwarnings(
  "ignore:The Pallas Triton backend is deprecated:DeprecationWarning"
)
@pytest.mark.parametrize(
  ("lengths", "position", "causal", "kernels"),
  [
    ((512, 512), True, False, 4),
    ((96, 96), True, True, 4),
    ((192, 512), False, False, 3),
  ],
)
def test_triton_kernels_lower_for_gpu(lengths, position, causal, kernels):
  device = jax.sharding.AbstractDevice(
    device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu"
  )
  mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
  attend = functools.partial(triton_flash_attention.attention, interpret=False)
  with jax.sharding.use_abstract_mesh(mesh):
    text = _lowered(attend, "cuda", lengths, position=position, causal=causal)
  assert text.count("xla.gpu.triton") == kernels


@pytest.mark.parametrize(
  ("lengths", "position", "causal"),
  [((512, 512), True, False), ((80, 208), False, False)],
)
def test_tpu_kernels_lower_for_tpu(lengths, position, causal):
  device = jax.sharding.AbstractDevice(
    device_kind="TPU v5 lite", num_cores=1, platform="tpu"
  )
  mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
  attend = tpu_flash_attention.attention
  with jax.sharding.use_abstract_mesh(mesh):
    text = _lowered(attend, "tpu", lengths, position=position, causal=causal)
  assert text.count("tpu_custom_call") == 2


@pytest.mark.parametrize(
  ("name", "heads"),
  [
    ("triton", 2),
    # Which two devices cannot share:
    pytest.param("triton", 3, marks=pytest.mark.slow),
    pytest.param("flash", 2, marks=pytest.mark.slow),
  ],
)
def test_on_a_mesh_values_and_gradients_are_the_same(name, heads):
  rng = np.random.default_rng(0)
  length = 32
  query, key, value = (
    jnp.asarray(rng.normal(size=(4, heads, length, 16)), jnp.float32)
    for _ in range(3)
  )
  position = jnp.asarray(rng.normal(size=(1, heads, length, length)), "float32")
  (segments,) = attention_proof.packed_segments(rng, length)
  segments = jnp.concatenate([segments, segments[:1]])

  def loss(query, key, value, position, implementation):
    if implementation is None:
      x = attention_proof.plain_attention(
        query, key, value, position, segments, segments, causal=True
      )
    else:
      bias = attention_kernels.SegmentBias(
        position, segments, segments, True, implementation
      )
      x = attention_kernels.attention(query, key, value, bias)
    return (jnp.sin(x) * (segments > 0)[:, None, :, None]).sum()

  def run(implementation):
    gradient = jax.value_and_grad(loss, (0, 1, 2, 3))
    function = functools.partial(gradient, implementation=implementation)
    return jax.jit(function)(query, key, value, position)

  expected = run(None)
  mesh = jax.make_mesh(
    (4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  rules = (("batch", "data"), ("heads", "model"))
  with jax.set_mesh(mesh), layer_parts.nn.logical_axis_rules(rules):
    actual = run(name)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5),
    actual,
    expected,
  )
  assert not actual[1][0].sharding.is_fully_replicated
