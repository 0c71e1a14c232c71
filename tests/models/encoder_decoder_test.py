"""The student as functions: tree, masks, packing, scanning, remat, dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from small_models import ODD as CONFIG

from dss_jax.models import layer_stacking
from dss_jax.models.encoder_decoder import EncoderDecoderModel

TIED = small_models.tied(CONFIG)


@functools.cache
def _model(config):
  """The model, parameters for it and its compiled `apply`."""
  model = EncoderDecoderModel(config)
  return model, small_models.initial_params(config, 5.0), jax.jit(model.apply)


def _batch(seed=0, batch=2, inputs=9, targets=7):
  rng = np.random.default_rng(seed)
  encoder = rng.integers(2, CONFIG.vocab_size, (batch, inputs)).astype(np.int32)
  decoder = rng.integers(2, CONFIG.vocab_size, (batch, targets)).astype(
    np.int32
  )
  encoder[0, inputs - 3 :] = 0
  decoder[1, targets - 2 :] = 0
  shifted = np.pad(decoder, ((0, 0), (1, 0)))[:, :-1]
  return {
    "encoder_input_tokens": encoder,
    "decoder_input_tokens": shifted,
    "decoder_target_tokens": decoder,
  }


def _paths(tree):
  leaves = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda x: isinstance(x, tuple)
  )[0]
  return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


# ------------------------------------------------------------------------ tree


def test_parameters_have_t5x_paths_shapes_and_axes():
  model, params, _ = _model(CONFIG)
  joined, emb, mlp = 15, 12, 10
  attention = {
    "query/kernel": ((emb, joined), ("embed", "joined_kv")),
    "key/kernel": ((emb, joined), ("embed", "joined_kv")),
    "value/kernel": ((emb, joined), ("embed", "joined_kv")),
    "out/kernel": ((joined, emb), ("joined_kv", "embed")),
  }
  norm = ((emb,), ("embed",))
  feed_forward = {
    "pre_mlp_layer_norm/scale": norm,
    "mlp/wi_0/kernel": ((emb, mlp), ("embed", "mlp")),
    "mlp/wi_1/kernel": ((emb, mlp), ("embed", "mlp")),
    "mlp/wo/kernel": ((mlp, emb), ("mlp", "embed")),
  }
  expected: dict[str, tuple] = {
    "token_embedder/embedding": ((CONFIG.vocab_size, emb), ("vocab", "embed")),
    "decoder/logits_dense/kernel": (
      (emb, CONFIG.vocab_size),
      ("embed", "vocab"),
    ),
  }
  for stack, num_layers, parts in (
    ("encoder", 1, {"attention": "pre_attention_layer_norm"}),
    (
      "decoder",
      2,
      {
        "self_attention": "pre_self_attention_layer_norm",
        "encoder_decoder_attention": "pre_cross_attention_layer_norm",
      },
    ),
  ):
    expected[f"{stack}/{stack}_norm/scale"] = norm
    expected[f"{stack}/relpos_bias/rel_embedding"] = (
      (3, 32),
      ("heads", "relpos_buckets"),
    )
    for i in range(num_layers):
      layer = f"{stack}/layers_{i}"
      for part, part_norm in parts.items():
        expected[f"{layer}/{part_norm}/scale"] = norm
        for name, leaf in attention.items():
          expected[f"{layer}/{part}/{name}"] = leaf
      for name, leaf in feed_forward.items():
        expected[f"{layer}/{name}"] = leaf
  arrays, axes = _paths(params), _paths(model.param_axes())
  assert {k: (v.shape, axes[k]) for k, v in arrays.items()} == expected
  assert axes.keys() == arrays.keys()
  assert {leaf.dtype for leaf in arrays.values()} == {jnp.dtype("float32")}


def test_t5_1_0_has_one_projection_and_no_output_table():
  paths = _paths(EncoderDecoderModel(TIED).param_axes())
  assert "encoder/layers_0/mlp/wi/kernel" in paths
  assert "encoder/layers_0/mlp/wi_0/kernel" not in paths
  assert "decoder/logits_dense/kernel" not in paths


def test_scanned_parameters_count_layers_on_axis_one():
  config = dataclasses.replace(CONFIG, num_encoder_layers=2, scan_layers=True)
  model = EncoderDecoderModel(config)
  shapes = _paths(jax.eval_shape(model.init, jax.random.key(0)))
  axes = _paths(model.param_axes())
  for path, shape, names in (
    ("encoder/encoder/mlp/wo/kernel", (10, 2, 12), ("mlp", "layers", "embed")),
    ("decoder/decoder/pre_mlp_layer_norm/scale", (12, 2), ("embed", "layers")),
    ("decoder/relpos_bias/rel_embedding", (3, 32), ("heads", "relpos_buckets")),
  ):
    assert shapes[path].shape == shape
    assert axes[path] == names


LARGER = dataclasses.replace(
  CONFIG, emb_dim=96, num_heads=4, head_dim=16, mlp_dim=160, vocab_size=300
)


@pytest.fixture(scope="module")
def initial():
  """`init` with sizes fit for statistics."""
  return jax.jit(EncoderDecoderModel(LARGER).init)


@pytest.mark.slow
def test_initial_scales_are_t5x(initial):
  params = _paths(initial(jax.random.key(0)))
  layer = "decoder/layers_1"
  for path, scale in {
    "token_embedder/embedding": 1.0,
    f"{layer}/self_attention/query/kernel": 96**-0.5 / 4,  # / sqrt(head_dim)
    f"{layer}/encoder_decoder_attention/value/kernel": 96**-0.5,
    f"{layer}/self_attention/out/kernel": 64**-0.5,
    f"{layer}/mlp/wi_1/kernel": 96**-0.5,
    f"{layer}/mlp/wo/kernel": 160**-0.5,
    "decoder/logits_dense/kernel": 96**-0.5,
    # Uniform with the variance 1 / mean(heads, buckets).
    "encoder/relpos_bias/rel_embedding": 18**-0.5,
  }.items():
    assert np.std(params[path]) == pytest.approx(scale, rel=0.1), path
  assert np.all(params[f"{layer}/pre_mlp_layer_norm/scale"] == 1.0)
  largest = np.abs(params["encoder/relpos_bias/rel_embedding"]).max()
  assert largest <= (3 / 18) ** 0.5


def test_parameters_depend_on_the_key_only_and_layers_differ():
  @jax.jit  # compiles what these two need only
  def kernels(key):
    layers = EncoderDecoderModel(LARGER).init(key)["decoder"]
    return [layers[f"layers_{i}"]["mlp"]["wo"]["kernel"] for i in range(2)]

  first, second = kernels(jax.random.key(3))
  assert not np.allclose(first, kernels(jax.random.key(4))[0])
  assert not np.allclose(first, second)


@pytest.mark.slow
def test_parameters_are_the_same_whether_stacked_or_not(initial):
  scanned = dataclasses.replace(LARGER, scan_layers=True)
  jax.tree.map(
    np.testing.assert_array_equal,
    layer_stacking.stack_layers(initial(jax.random.key(3))),
    jax.jit(EncoderDecoderModel(scanned).init)(jax.random.key(3)),
  )


# ------------------------------------------------------------ masks and packing


@pytest.fixture(scope="module")
def packed():
  """Three examples, alone (padded) and packed into two rows."""
  rng = np.random.default_rng(1)
  examples = [
    (
      rng.integers(2, CONFIG.vocab_size, n),
      rng.integers(2, CONFIG.vocab_size, m),
    )
    for n, m in ((5, 3), (7, 4), (4, 6))
  ]
  rows = [[0, 1], [2]]  # examples of each row
  shape_in, shape_out = (2, 14), (2, 9)
  names = ("input_tokens", "segment_ids", "positions")
  packed_batch = {
    f"{side}_{name}": np.zeros(shape, np.int32)
    for side, shape in (("encoder", shape_in), ("decoder", shape_out))
    for name in names
  }
  packed_batch["decoder_target_tokens"] = np.zeros(shape_out, np.int32)
  places = {}
  for row, members in enumerate(rows):
    i = j = 0
    for segment, member in enumerate(members, start=1):
      inputs, targets = examples[member]
      a, b = slice(i, i + len(inputs)), slice(j, j + len(targets))
      packed_batch["encoder_input_tokens"][row, a] = inputs
      packed_batch["encoder_segment_ids"][row, a] = segment
      packed_batch["encoder_positions"][row, a] = np.arange(len(inputs))
      packed_batch["decoder_target_tokens"][row, b] = targets
      packed_batch["decoder_input_tokens"][row, b] = [0, *targets[:-1]]
      packed_batch["decoder_segment_ids"][row, b] = segment
      packed_batch["decoder_positions"][row, b] = np.arange(len(targets))
      places[member] = (row, b)
      i, j = a.stop, b.stop
  alone = {
    "encoder_input_tokens": np.zeros((3, 14), np.int32),
    "decoder_input_tokens": np.zeros((3, 9), np.int32),
    "decoder_target_tokens": np.zeros((3, 9), np.int32),
  }
  for member, (inputs, targets) in enumerate(examples):
    alone["encoder_input_tokens"][member, : len(inputs)] = inputs
    alone["decoder_target_tokens"][member, : len(targets)] = targets
    alone["decoder_input_tokens"][member, 1 : len(targets)] = targets[:-1]
  return packed_batch, alone, places


@pytest.mark.parametrize(
  "config",
  [
    pytest.param(CONFIG, id="1.1"),
    pytest.param(TIED, id="1.0", marks=pytest.mark.slow),
  ],
)
def test_packed_rows_give_the_logits_of_unpacked_ones(packed, config):
  packed_batch, alone, places = packed
  _, params, apply = _model(config)
  together, apart = apply(params, packed_batch), apply(params, alone)
  for member, (row, where) in places.items():
    length = where.stop - where.start
    np.testing.assert_allclose(
      together[row, where], apart[member, :length], atol=1e-5
    )


def test_segments_of_a_row_do_not_see_each_other(packed):
  packed_batch, _, places = packed
  _, params, apply = _model(CONFIG)
  before = apply(params, packed_batch)
  changed = {k: v.copy() for k, v in packed_batch.items()}
  changed["encoder_input_tokens"][0, 1] += 1
  changed["decoder_input_tokens"][0, 1] += 1
  after = apply(params, changed)
  row, first = places[0]
  _, second = places[1]
  np.testing.assert_array_equal(before[row, second], after[row, second])
  assert not np.allclose(before[row, first], after[row, first])


def test_decoder_is_causal():
  _, params, apply = _model(CONFIG)
  batch = _batch()
  before = apply(params, batch)
  later = {k: v.copy() for k, v in batch.items()}
  later["decoder_input_tokens"][:, 4] += 1
  after = apply(params, later)
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert not np.allclose(before[0, 4:], after[0, 4:])


def test_targets_are_needed_only_to_find_padding():
  _, params, apply = _model(CONFIG)
  batch = _batch()
  with_targets = apply(params, batch)
  without = apply(
    params, {k: v for k, v in batch.items() if k != "decoder_target_tokens"}
  )
  real = batch["decoder_target_tokens"] > 0
  np.testing.assert_allclose(without[real], with_targets[real], atol=1e-5)


def test_position_biases_make_order_matter():
  _, params, apply = _model(CONFIG)
  batch = _batch()
  flipped = dict(batch)
  flipped["encoder_input_tokens"] = batch["encoder_input_tokens"].copy()
  flipped["encoder_input_tokens"][1] = flipped["encoder_input_tokens"][1, ::-1]
  difference = apply(params, batch)[1] - apply(params, flipped)[1]
  assert np.abs(difference).max() > 1e-2


def test_segment_ids_of_one_side_only_are_refused():
  model, params, _ = _model(CONFIG)
  batch = _batch()
  batch["encoder_segment_ids"] = (batch["encoder_input_tokens"] > 0) * 1
  with pytest.raises(ValueError, match="decoder_segment_ids"):
    model.apply(params, batch)


def test_ids_outside_the_vocabulary_give_nan_not_a_wrong_row():
  _, params, apply = _model(CONFIG)
  batch = _batch()
  batch["decoder_input_tokens"][0, 3] = 33
  logits = apply(params, batch)
  assert np.isnan(logits[0, 3:5]).all()
  assert np.isfinite(logits[1]).all()


def test_apply_is_encode_decode_and_projection():
  model, params, apply = _model(CONFIG)
  batch = _batch()
  hidden = jax.jit(model.hidden_states)(params, batch)
  assert hidden.shape == (2, 7, 12)
  chosen = jax.jit(model.logits)(params, hidden[:, [1, 4]])
  np.testing.assert_allclose(chosen, apply(params, batch)[:, [1, 4]], atol=1e-5)


# ------------------------------------------------- scanning, remat, precision


def _loss_and_grads(config):
  model = EncoderDecoderModel(config)

  @jax.jit
  def run(params, batch):
    def loss(params):
      logits = model.apply(params, batch)
      log_probs = jax.nn.log_softmax(logits)
      targets = batch["decoder_target_tokens"]
      chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)
      return -jnp.sum(chosen[..., 0] * (targets > 0))

    return jax.value_and_grad(loss)(params)

  return run


@pytest.fixture(scope="module")
def plain():
  """Loss and gradients of the plain model."""
  _, params, _ = _model(CONFIG)
  loss, grads = _loss_and_grads(CONFIG)(params, _batch())
  assert np.isfinite(loss)
  return loss, grads


def _assert_same(actual, expected):
  scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale),
    actual,
    expected,
  )


def test_scanned_layers_give_the_same_logits():
  _, params, apply = _model(CONFIG)
  scanned = EncoderDecoderModel(dataclasses.replace(CONFIG, scan_layers=True))
  np.testing.assert_allclose(
    jax.jit(scanned.apply)(layer_stacking.stack_layers(params), _batch()),
    apply(params, _batch()),
    atol=1e-5,
  )


@pytest.mark.slow
@pytest.mark.parametrize("remat_policy", ["none", "full"])
def test_scanned_layers_give_the_same_loss_and_gradients(plain, remat_policy):
  config = dataclasses.replace(
    CONFIG, scan_layers=True, remat_policy=remat_policy
  )
  _, params, _ = _model(CONFIG)
  stacked = layer_stacking.stack_layers(params)
  loss, grads = _loss_and_grads(config)(stacked, _batch())
  np.testing.assert_allclose(loss, plain[0], rtol=1e-6)
  _assert_same(layer_stacking.unstack_layers(grads), plain[1])


@pytest.mark.slow
@pytest.mark.parametrize("remat_policy", ["minimal", "full"])
def test_remat_changes_nothing_but_what_is_kept(plain, remat_policy):
  config = dataclasses.replace(CONFIG, remat_policy=remat_policy)
  _, params, _ = _model(CONFIG)
  run = _loss_and_grads(config)
  loss, grads = run(params, _batch())
  np.testing.assert_allclose(loss, plain[0], rtol=1e-6)
  _assert_same(grads, plain[1])
  # Something is computed twice.
  twice = run.lower(params, _batch()).as_text().count("dot_general")
  once = _loss_and_grads(CONFIG).lower(params, _batch()).as_text()
  assert twice > once.count("dot_general")


def test_bfloat16_is_close_with_float32_parameters_softmax_and_logits():
  config = dataclasses.replace(CONFIG, dtype="bfloat16")
  model, params, apply = _model(config)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  batch = _batch()
  logits = apply(params, batch)
  assert logits.dtype == jnp.float32
  exact = _model(CONFIG)[2](params, batch)
  assert 0 < np.abs(logits - exact).max() < 0.1 * np.std(exact)
  assert jax.eval_shape(model.hidden_states, params, batch).dtype == "bfloat16"
  jaxpr = str(jax.make_jaxpr(model.apply)(params, batch))
  exponentials = [line for line in jaxpr.split("\n") if "= exp " in line]
  assert exponentials
  assert not any("bf16" in line for line in exponentials)


def test_float32_attention_logits_make_bfloat16_closer():
  batch = _batch()
  jaxprs = []
  for float32_attention_logits in (False, True):
    config = dataclasses.replace(
      CONFIG,
      dtype="bfloat16",
      float32_attention_logits=float32_attention_logits,
    )
    model, params, _ = _model(CONFIG)
    model = EncoderDecoderModel(config)
    jaxprs.append(str(jax.make_jaxpr(model.apply)(params, batch)))
  # Encoder: [batch, heads, 9, 9] query-key products.
  assert "bf16[2,3,9,9] = dot_general" in jaxprs[0]
  assert "bf16[2,3,9,9] = dot_general" not in jaxprs[1]
  assert "f32[2,3,9,9] = dot_general" in jaxprs[1]
