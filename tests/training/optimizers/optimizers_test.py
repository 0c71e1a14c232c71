"""Optimizers against NumPy references, T5X's numbers, and each other."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dss_jax.base.errors import UserError
from dss_jax.training import optimizers, t5x_optimizer_state
from dss_jax.training.optimizers import schedules

LR = 0.01


def constant(step):
  del step
  return jnp.float32(LR)


def by_step(step):
  return 0.01 * (jnp.asarray(step, jnp.float32) + 1.0)


def random_tree(shapes, seed, scale=1.0) -> Any:
  rng = np.random.default_rng(seed)
  return {
    name: jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)
    for name, shape in shapes.items()
  }


def stepper(optimizer, params, axes=None, lr_fn=by_step):
  """A function from gradients of several steps to parameters and state.

  `step`, unless it is None, is the step of all of them.
  """
  tx = optimizer.transform(lr_fn, jax.eval_shape(lambda: params), axes)

  @jax.jit
  def update(grads, state, params, step):
    changes, state = tx.update(grads, state, params, step=step)
    return optax.apply_updates(params, changes), state

  def steps(grads_of_steps, step=None) -> Any:
    values, state = params, jax.jit(tx.init)(params)
    for grads in grads_of_steps:
      values, state = update(grads, state, values, step)
    return values, state

  return steps


def run(optimizer, params, grads_of_steps, axes=None, lr_fn=by_step) -> Any:
  """Parameters and state after these gradients."""
  return stepper(optimizer, params, axes, lr_fn)(grads_of_steps)


class NumpyAdafactor:
  """T5X's `apply_param_gradient`, one array, float64, written from the paper.

  `rows` and `columns` are None for an unfactored array.
  """

  def __init__(self, param, rows=None, columns=None, **settings):
    self.p = np.asarray(param, np.float64)
    self.rows, self.columns = rows, columns
    self.row = self.col = self.v = self.m = 0.0
    self.s = {
      "eps2": 1e-3,
      "clip": 1.0,
      "beta1": None,
      "decay": None,
      "scaled": True,
    } | settings

  def step(self, t, g, lr):
    g, s = np.asarray(g, np.float64), self.s
    beta2 = 1 - float(t) ** -0.8
    mix = lambda old, new: beta2 * old + (1 - beta2) * new  # noqa: E731
    if self.rows is None:
      self.v = mix(self.v, g**2 + 1e-30)
      y = g / np.sqrt(self.v)
    else:
      self.row = mix(self.row, (g**2 + 1e-30).mean(self.columns, keepdims=True))
      self.col = mix(self.col, (g**2 + 1e-30).mean(self.rows, keepdims=True))
      v = self.row * self.col / self.row.mean()
      y = g / np.sqrt(v)
    if s["clip"]:
      y = y / max(1, np.sqrt((y**2).mean()) / s["clip"])
    if s["scaled"]:
      lr = lr * max(np.sqrt((self.p**2).mean()), s["eps2"])
    change = lr * y
    if s["beta1"] is not None:
      self.m = s["beta1"] * self.m + (1 - s["beta1"]) * change
      change = self.m
    if s["decay"] is not None:
      change = change + s["decay"] * self.p
    self.p = self.p - change


SHAPES = {"wide": (8, 20), "tall": (20, 8), "narrow": (4, 20), "scale": (20,)}
# Rows and columns: the larger dimension is the column, whichever comes first.
FACTORS = {"wide": ((0,), (1,)), "tall": ((1,), (0,))}


class TestAdafactor:
  @pytest.mark.parametrize(
    ("fields", "settings"),
    [
      ({}, {}),
      ({"beta1": 0.9}, {"beta1": 0.9}),
      (
        {"weight_decay_rate": 0.1, "clipping_threshold": None, "no_decay": ()},
        {"decay": 0.1, "clip": None},
      ),
      (
        {"multiply_by_parameter_scale": False, "clipping_threshold": 0.3},
        {"scaled": False, "clip": 0.3},
      ),
    ],
  )
  def test_against_numpy(self, fields, settings):
    params = random_tree(SHAPES, 0, 0.1)
    params["scale"] = params["scale"] * 1e-4  # below epsilon2
    grads = [random_tree(SHAPES, 10 + i, 3.0**i) for i in range(3)]
    optimizer = optimizers.Adafactor(min_dim_size_to_factor=8, **fields)
    got, state = run(optimizer, params, grads)
    for name, param in params.items():
      reference = NumpyAdafactor(
        param, *FACTORS.get(name, (None, None)), **settings
      )
      for t, g in enumerate(grads, 1):
        reference.step(t, g[name], 0.01 * t)
      np.testing.assert_allclose(got[name], reference.p, rtol=2e-5, atol=1e-9)
    assert int(state.count) == 3

  def test_state_shapes_are_t5x(self):
    params = random_tree(SHAPES, 0)
    tx = optimizers.Adafactor(min_dim_size_to_factor=8).transform(
      constant, params
    )
    state: Any = jax.eval_shape(tx.init, params)
    shapes: Any = jax.tree.map(lambda leaf: leaf.shape, state)
    assert shapes.v_row == {
      "wide": (8,),
      "tall": (8,),
      "narrow": (1,),
      "scale": (1,),
    }
    assert shapes.v_col == {
      "wide": (20,),
      "tall": (20,),
      "narrow": (1,),
      "scale": (1,),
    }
    assert shapes.v == {
      "wide": (1,),
      "tall": (1,),
      "narrow": (4, 20),
      "scale": (20,),
    }
    assert state.m is None

  def test_defaults_are_t5x(self):
    fields = dataclasses.asdict(optimizers.Adafactor())
    t5x = {
      "factored": True,
      "multiply_by_parameter_scale": True,
      "beta1": None,
      "decay_rate": 0.8,
      "step_offset": 0,
      "clipping_threshold": 1.0,
      "weight_decay_rate": None,
      "min_dim_size_to_factor": 128,
      "epsilon1": 1e-30,
      "epsilon2": 1e-3,
    }
    assert {name: fields[name] for name in t5x} == t5x

  def test_square_parameters_keep_their_order(self):
    params = {"w": jnp.ones((4, 4))}
    grads = [{"w": jnp.arange(16.0).reshape(4, 4)}]
    _, state = run(
      optimizers.Adafactor(min_dim_size_to_factor=4), params, grads
    )
    # Rows are the first dimension: their factor averages over the second.
    want = np.mean(np.arange(16.0).reshape(4, 4) ** 2, axis=1)
    np.testing.assert_allclose(state.v_row["w"], want, rtol=1e-6)

  def test_three_dimensions_follow_the_rules_by_name(self):
    params = random_tree({"qkv": (6, 3, 4)}, 0)
    axes = {"qkv": ("embed", "heads", "kv")}
    grads = [random_tree({"qkv": (6, 3, 4)}, 1)]
    got, state = run(optimizers.Adafactor(), params, grads, axes)
    assert state.v_row["qkv"].shape == (6,)
    assert state.v_col["qkv"].shape == (3, 4)
    reference = NumpyAdafactor(params["qkv"], (0,), (1, 2))
    reference.step(1, grads[0]["qkv"], 0.01)
    np.testing.assert_allclose(got["qkv"], reference.p, rtol=2e-5, atol=1e-8)

  @pytest.mark.parametrize(
    ("axes", "words"),
    [
      (None, ["None", "qkv"]),
      (("embed", "heads", "wings"), ["'wings'", "qkv", "logical_factor_rules"]),
      (("embed", "heads", "relpos_buckets"), ["roles", "logical_factor_rules"]),
    ],
  )
  def test_three_dimensions_without_rules(self, axes, words):
    params = {"qkv": jnp.ones((6, 3, 4))}
    axes = None if axes is None else {"qkv": axes}
    with pytest.raises(UserError) as error:
      optimizers.Adafactor().transform(constant, params, axes)
    for word in words:
      assert word in str(error.value)

  def test_step_offset_restarts_the_decay(self):
    params = {"w": jnp.ones((3,))}
    tx = optimizers.Adafactor(step_offset=1000).transform(constant, params)
    grads = {"w": jnp.array([1.0, 2.0, 3.0])}
    state: Any = tx.init(params)
    state = state._replace(count=jnp.int32(1000))
    _, state = jax.jit(tx.update)(grads, state, params)
    # The first update forgets what was before: v = g².
    np.testing.assert_allclose(state.v["w"], [1, 4, 9], rtol=1e-6)

  @pytest.mark.parametrize("beta1", [None, 0.9])
  def test_t5x_state_round_trip(self, beta1):
    params = {"decoder": {"layers_0": random_tree(SHAPES, 0)}}
    grads = [{"decoder": {"layers_0": random_tree(SHAPES, 1)}}]
    optimizer = optimizers.Adafactor(min_dim_size_to_factor=8, beta1=beta1)
    _, state = run(optimizer, params, grads)
    t5x = t5x_optimizer_state.to_t5x(state)
    layer = t5x["decoder"]["layers_0"]
    assert sorted(layer["wide"]) == ["m", "v", "v_col", "v_row"]
    assert layer["wide"]["m"].shape == ((8, 20) if beta1 else (1,))
    template = jax.eval_shape(lambda: state)
    again = t5x_optimizer_state.from_t5x(t5x, 1, template)
    jax.tree.map(np.testing.assert_array_equal, again, state)

  def test_t5x_state_of_other_shapes_is_refused(self):
    params = random_tree(SHAPES, 0)
    states: list[Any] = [
      optimizers.Adafactor(min_dim_size_to_factor=n)
      .transform(constant, params)
      .init(params)
      for n in (8, 128)
    ]
    t5x = t5x_optimizer_state.to_t5x(states[0])
    with pytest.raises(UserError, match="min_dim_size_to_factor"):
      t5x_optimizer_state.from_t5x(t5x, 3, states[1])
    del t5x["wide"]
    with pytest.raises(UserError, match="wide: v_row has shape None"):
      t5x_optimizer_state.from_t5x(t5x, 3, states[0])


class TestAdam:
  def reference(self, param, grads, decay, scaled):
    p = np.asarray(param, np.float64)
    m = v = 0.0
    for t, g in enumerate(grads, 1):
      g = np.asarray(g, np.float64)
      m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
      step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
      if scaled:
        step = step * max(np.sqrt((p**2).mean()), 1e-3)
      p = p - 0.01 * t * (step + decay * p)
    return p

  @pytest.mark.parametrize(
    ("optimizer_class", "scaled"),
    [(optimizers.AdamW, False), (optimizers.ParameterScaledAdam, True)],
  )
  def test_against_numpy(self, optimizer_class, scaled):
    shapes = {"kernel": (3, 5), "scale": (5,)}
    params = random_tree(shapes, 0)
    grads = [random_tree(shapes, 10 + i) for i in range(3)]
    got, _ = run(optimizer_class(weight_decay=0.1), params, grads)
    for name, decay in [("kernel", 0.1), ("scale", 0.0)]:
      want = self.reference(
        params[name], [g[name] for g in grads], decay, scaled
      )
      np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=1e-7)

  def test_zero_parameters_can_grow(self):
    params = {"w": jnp.zeros((2,))}
    got, _ = run(
      optimizers.ParameterScaledAdam(),
      params,
      [{"w": jnp.array([3.0, -7.0])}],
      lr_fn=constant,
    )
    # Adam's first step is the sign; the size counts as 1e-3.
    np.testing.assert_allclose(got["w"], [-LR * 1e-3, LR * 1e-3], rtol=1e-5)


ALL = {
  "adafactor": optimizers.Adafactor(min_dim_size_to_factor=4),
  "adamw": optimizers.AdamW(weight_decay=0.1),
  "scaled_adam": optimizers.ParameterScaledAdam(weight_decay=0.1),
}


@pytest.mark.parametrize(
  "name",
  [
    "adafactor",
    pytest.param("adamw", marks=pytest.mark.slow),
    "scaled_adam",
  ],
)
class TestEveryOptimizer:
  def test_scanned_layers_step_like_unscanned_ones(self, name):
    """A stack on axis 1, as in scanned T5, against its layers one by one."""
    shapes = {"kernel": (4, 6), "square": (5, 5), "scale": (6,)}
    axes = {
      "kernel": ("embed", "mlp"),
      "square": ("embed", "kv"),
      "scale": ("embed",),
    }
    # Layers of very different sizes: mixing them would show at once.
    layers = [random_tree(shapes, i, 10.0**-i) for i in range(3)]
    grads = [
      [random_tree(shapes, 7 * i + s, 4.0**i) for i in range(3)]
      for s in range(2)
    ]
    stack = lambda trees: jax.tree.map(  # noqa: E731
      lambda *x: jnp.stack(x, axis=1), *trees
    )
    stacked_axes = {k: (a[0], "layers", *a[1:]) for k, a in axes.items()}
    by_name = lambda trees: dict(zip("abc", trees))  # noqa: E731
    want, _ = run(
      ALL[name],
      by_name(layers),
      [by_name(g) for g in grads],
      by_name([axes] * 3),
    )
    got, _ = run(
      ALL[name], stack(layers), [stack(g) for g in grads], stacked_axes
    )
    want = stack([want[k] for k in "abc"])
    for key in shapes:
      np.testing.assert_allclose(got[key], want[key], rtol=1e-6, atol=1e-9)

  def test_learning_rate_follows_the_step_it_is_called_with(self, name):
    params = random_tree({"w": (4, 6)}, 0)
    grads = [random_tree({"w": (4, 6)}, 1)]
    steps = stepper(ALL[name], params)
    counted, _ = steps(grads)
    first, _ = steps(grads, jnp.int32(0))
    np.testing.assert_allclose(counted["w"], first["w"], rtol=1e-6)
    later, _ = steps(grads, jnp.int32(9))
    moved, moved_first = later["w"] - params["w"], first["w"] - params["w"]
    np.testing.assert_allclose(moved, 10 * moved_first, rtol=1e-3)

  def test_clip_norm_scales_the_gradient(self, name):
    params = random_tree({"w": (4, 6), "b": (6,)}, 0)
    # Adam and Adafactor forget the size of one gradient, not of a second.
    small, large = (random_tree({"w": (4, 6), "b": (6,)}, i) for i in (1, 2))
    norm = float(optax.tree.norm(large))
    clipped = dataclasses.replace(ALL[name], clip_norm=norm / 10)
    small = jax.tree.map(lambda g: g / 20, small)
    assert float(optax.tree.norm(small)) < norm / 10
    got, _ = run(clipped, params, [small, large])
    tenth = jax.tree.map(lambda g: g / 10, large)
    steps = stepper(ALL[name], params)
    want, _ = steps([small, tenth])
    unclipped, _ = steps([small, large])
    for key in params:
      np.testing.assert_allclose(got[key], want[key], rtol=1e-5, atol=1e-7)
    assert np.max(np.abs(got["w"] - unclipped["w"])) > 1e-4


def test_decay_leaves_out_scales_and_biases():
  names = {
    "encoder": {
      "encoder_norm": {"scale": jnp.ones(3)},
      "relpos_bias": {"rel_embedding": jnp.ones((2, 3))},
      "attention": {"query": {"kernel": jnp.ones((2, 3))}},
    },
    "token_embedder": {"embedding": jnp.ones((4, 3))},
    "dense": {"bias": jnp.ones(3)},
  }
  zeros = jax.tree.map(jnp.zeros_like, names)
  for optimizer in (
    optimizers.AdamW(weight_decay=1.0),
    optimizers.ParameterScaledAdam(weight_decay=1.0),
    optimizers.Adafactor(weight_decay_rate=LR),
    optimizers.Adafactor(weight_decay_rate_lr_exponent=1.0),
  ):
    got, _ = run(optimizer, names, [zeros], lr_fn=constant)
    want = jax.tree.map(lambda x: x * (1 - LR), names)
    want["encoder"]["encoder_norm"] = names["encoder"]["encoder_norm"]
    want["encoder"]["relpos_bias"] = names["encoder"]["relpos_bias"]
    want["dense"] = names["dense"]
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want
    )


def test_schedules_fit_in():
  fn = schedules.create_learning_rate_scheduler(
    "constant * linear_warmup", base_learning_rate=1.0, warmup_steps=4
  )
  params = {"w": jnp.ones(2)}
  got, _ = stepper(optimizers.AdamW(), params, lr_fn=fn)(
    [{"w": jnp.ones(2)}], 2
  )
  np.testing.assert_allclose(got["w"], [0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize(
  "optimizer",
  [optimizers.AdamW(), optimizers.Adafactor()],
  ids=["adamw", "adafactor"],
)
def test_a_given_learning_rate_takes_the_schedules_place(optimizer):
  params = {"w": jnp.array([1.0, 2.0])}
  own = optimizer.transform(lambda step: 0.5, params)
  other = optimizer.transform(lambda step: 0.1, params)
  want, _ = own.update(params, own.init(params), params, step=3)
  got, _ = other.update(
    params, other.init(params), params, step=3, learning_rate=jnp.float32(0.5)
  )
  np.testing.assert_array_equal(got["w"], want["w"])


@pytest.mark.shared
def test_one_step_of_t5x(shared_data):
  """T5X's own gradient and Adafactor step, from its checkpoint of step 3.

  parity.npz holds 8 of the 66 gradients and new parameters (of the embedding
  the first 20 rows); parity_norms.json the norms of all.
  """
  from dss_jax.models import config, encoder_decoder
  from dss_jax.pretrained import t5x_checkpoints
  from dss_jax.training import losses, token_losses

  folder = shared_data / "t5x_tiny"
  params, param_states, step = t5x_checkpoints.load_t5x(folder / "orbax")
  arrays = np.load(folder / "parity.npz")
  norms = json.loads((folder / "parity_norms.json").read_text())
  model = encoder_decoder.EncoderDecoderModel(
    config.T5Config(
      vocab_size=264,
      emb_dim=32,
      num_heads=3,
      num_encoder_layers=2,
      num_decoder_layers=3,
      head_dim=8,
      mlp_dim=40,
    )
  )
  weighting = losses.Weighting((1.0,), None)
  tx = optimizers.Adafactor(min_dim_size_to_factor=16).transform(
    constant, params, model.param_axes()
  )

  def loss_fn(params, batch):
    logits = model.apply(params, batch)
    nll, z = token_losses.token_nll(
      logits, batch["decoder_target_tokens"], 1e-4
    )
    return jnp.sum(weighting(batch) * (nll + z))

  @jax.jit
  def update(params, state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    changes, state = tx.update(grads, state, params)
    return loss, grads, optax.apply_updates(params, changes), state

  assert param_states is not None
  batch = {
    name: arrays[name]
    for name in arrays
    if name.startswith(("encoder_", "decoder_"))
  }
  state = t5x_optimizer_state.from_t5x(
    param_states, step, jax.eval_shape(tx.init, params)
  )
  loss, grads, after, state = update(params, state, batch)
  assert float(loss) == pytest.approx(float(arrays["loss"]), rel=1e-6)
  assert int(state.count) == step + 1 == 4

  def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
      jax.tree_util.keystr(path, simple=True, separator="/"): leaf
      for path, leaf in leaves
    }

  old, grads, new = flat(params), flat(grads), flat(after)
  checked = 0
  for name in arrays:
    kind, _, path = name.partition(":")
    if path:
      got = {"grad": grads, "after": new}[kind][path]
      np.testing.assert_allclose(
        got[: len(arrays[name])], arrays[name], rtol=2e-5, atol=2e-6
      )
      checked += 1
  assert checked == 16
  assert sorted(norms) == sorted(new)
  for path, want in norms.items():
    got = {
      "grad_l2": np.linalg.norm(grads[path]),
      "new_l2": np.linalg.norm(new[path]),
      "delta_l2": np.linalg.norm(new[path] - old[path]),
    }
    assert got == pytest.approx(want, rel=1e-5), path
