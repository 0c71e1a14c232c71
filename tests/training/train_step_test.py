"""The train step's laws: on any mesh, in any number of micro-batches, the same.

Most tests use a toy student in plain JAX, which compiles in a moment; those
about packing, sharding constraints and types use the real one.
"""

import functools
import os
import re
import socket
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dss_jax.base import compilations
from dss_jax.base.errors import UserError
from dss_jax.models.partitioning import Partitioner, standard_logical_axis_rules
from dss_jax.training import losses, optimizers, token_losses, train_state
from dss_jax.training import train_step as train_step_lib
from dss_jax.training.optimizers import schedules
from dss_jax.training.pair_losses import MutualInformation

ROWS, INPUTS, TARGETS, VOCAB = 16, 10, 12, 24
LOGITS_AT_ONCE = 16  # positions: several chunks, the last one not full


def packed_rows(lists, rows, length) -> dict[str, Any]:
  """Packs (sub-task, encoder tokens, decoder tokens, weight) into a batch.

  `lists` holds the examples of each row, in order.
  """
  names = ("input_tokens", "segment_ids", "positions")
  batch: dict[str, Any] = {}
  batch |= {f"encoder_{n}": np.zeros((rows, length), np.int32) for n in names}
  names += ("target_tokens", "loss_weights", "subtask_ids", "record_ids")
  batch |= {f"decoder_{n}": np.zeros((rows, length), np.int32) for n in names}
  weights = batch["decoder_example_weights"] = np.zeros(
    (rows, length), np.float32
  )
  for row, examples in enumerate(lists):
    e = d = 0
    for segment, (subtask, inputs, targets, weight) in enumerate(examples, 1):
      span = slice(e, e + len(inputs))
      batch["encoder_input_tokens"][row, span] = inputs
      batch["encoder_segment_ids"][row, span] = segment
      batch["encoder_positions"][row, span] = np.arange(len(inputs))
      e = span.stop
      span = slice(d, d + len(targets))
      batch["decoder_target_tokens"][row, span] = targets
      batch["decoder_input_tokens"][row, span] = [0, *targets[:-1]]
      batch["decoder_segment_ids"][row, span] = segment
      batch["decoder_positions"][row, span] = np.arange(len(targets))
      batch["decoder_subtask_ids"][row, span] = subtask
      batch["decoder_record_ids"][row, span] = row + 1
      batch["decoder_loss_weights"][row, span] = 1
      weights[row, span] = weight
      d = span.stop
  return batch


def random_examples(seed, n):
  """n records: a short label and a longer rationale each, one weight."""
  rng = np.random.default_rng(seed)
  draw = lambda lo, hi: rng.integers(2, VOCAB, rng.integers(lo, hi))  # noqa: E731
  records = []
  for _ in range(n):
    weight = rng.choice([1.0, 1.0, 0.5])
    label = (1, draw(2, 5), np.append(draw(1, 3), 1), 1.0)
    rationale = (2, draw(2, 5), np.append(draw(3, 7), 1), weight)
    records.append((label, rationale))
  return records


def random_batch(seed=0, rows=ROWS):
  """Packed rows, very unequally filled, the last one empty."""
  records = random_examples(seed, rows)
  lists = [
    list(record)[: 1 + row % 2] for row, record in enumerate(records[:-1])
  ]
  return packed_rows(lists, rows, TARGETS)


class ToyStudent:
  """Embeddings, the row's mean input, one hidden layer. Nothing of Flax."""

  def __init__(self, dropout_rate=0.0):
    self.dropout_rate = dropout_rate

  def init(self, key):
    # One draw for all: compiling a random generator is what takes time.
    shapes = {
      "embedding": (VOCAB, 8),
      "mlp": {"wi": (8, 16), "wo": (16, 8)},
      "norm": {"scale": (8,)},
      "logits": (8, VOCAB),
    }
    leaves, structure = jax.tree.flatten(
      shapes, is_leaf=lambda node: isinstance(node, tuple)
    )
    ends = np.cumsum([np.prod(shape) for shape in leaves])
    drawn = jnp.split(jax.random.normal(key, (ends[-1],)) / 3, ends[:-1])
    values = [part.reshape(shape) for part, shape in zip(drawn, leaves)]
    params = structure.unflatten(values)
    return params | {"norm": {"scale": 1.0 + params["norm"]["scale"]}}

  def param_axes(self):
    return {
      "embedding": ("vocab", "embed"),
      "mlp": {"wi": ("embed", "mlp"), "wo": ("mlp", "embed")},
      "norm": {"scale": ("embed",)},
      "logits": ("embed", "vocab"),
    }

  def apply(self, params, batch, *, dropout_key=None):
    hidden = self.hidden_states(params, batch, dropout_key=dropout_key)
    return self.logits(params, hidden)

  def hidden_states(self, params, batch, *, dropout_key=None):
    table = params["embedding"]
    real = (batch["encoder_input_tokens"] > 0).astype(jnp.float32)[..., None]
    inputs = table[batch["encoder_input_tokens"]] * real
    x = table[batch["decoder_input_tokens"]]
    x = x + jnp.sum(inputs, 1, keepdims=True) / (1 + jnp.sum(real, 1)[:, None])
    if dropout_key is not None and self.dropout_rate:
      keep = jax.random.bernoulli(dropout_key, 1 - self.dropout_rate, x.shape)
      x = x * keep / (1 - self.dropout_rate)
    x = x * params["norm"]["scale"]
    return x + jax.nn.gelu(x @ params["mlp"]["wi"]) @ params["mlp"]["wo"]

  def logits(self, params, hidden):
    return hidden @ params["logits"]


def learning_rate(step):
  return 0.1 / (1.0 + jnp.asarray(step, jnp.float32))


WEIGHTING = losses.Objective(alpha=0.4).weighting(("label", "rationale"))
# Adam's eps is large here: where a gradient is all rounding noise, Adam would
# make full steps of it, different on every mesh.
OPTIMIZERS = {
  "adafactor": optimizers.Adafactor(min_dim_size_to_factor=8, clip_norm=1.0),
  "adamw": optimizers.AdamW(weight_decay=0.1, eps=1e-4),
  "scaled_adam": optimizers.ParameterScaledAdam(eps=1e-4),
}
ONE = functools.partial(Partitioner, devices=tuple(jax.devices()[:1]))
# Several tests run the program of these: it is compiled once.
SHARDED = functools.partial(
  Partitioner, 2, fully_sharded=True, fully_sharded_min_size=0
)
SETTINGS = {"num_microbatches": 2, "z_loss": 1e-3, "label_smoothing": 0.05}


def start(model, optimizer, partitioner, *, weighting=WEIGHTING, **settings):
  """A fresh state, the jitted step, and the placed test batch's function."""
  settings.setdefault("logits_at_once", LOGITS_AT_ONCE)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  tx = optimizer.transform(learning_rate, shapes, model.param_axes())
  state, shardings = train_state.init_state(
    model, tx, partitioner, jax.random.key(0)
  )
  step = train_step_lib.jit_train_step(
    model=model,
    tx=tx,
    options=train_step_lib.StepOptions(
      weighting, learning_rate_fn=learning_rate, **settings
    ),
    partitioner=partitioner,
    state_shardings=shardings,
    base_key=jax.random.key(7),
  )
  return state, step


def run(
  partitioner,
  optimizer,
  num_microbatches=1,
  model=None,
  *,
  steps=3,
  z_loss=1e-3,
  label_smoothing=0.05,
  logits_at_once: int | None = LOGITS_AT_ONCE,
):
  """Final state and the metric sums of every step."""
  state, step = start(
    model or ToyStudent(),
    optimizer,
    partitioner,
    num_microbatches=num_microbatches,
    z_loss=z_loss,
    label_smoothing=label_smoothing,
    logits_at_once=logits_at_once,
  )
  sums = []
  for seed in range(steps):
    batch = partitioner.put_batch(random_batch(seed))
    state, metrics = step(state, batch)
    sums.append(jax.device_get(metrics))
  return jax.device_get(state), sums


def lowered_step(partitioner, model, *, num_microbatches=1):
  """The program of a step, and the shapes of the model's parameters."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  axes = model.param_axes()
  tx = optimizers.AdamW().transform(learning_rate, shapes, axes)
  state = train_state.state_shapes(model, tx)
  step = train_step_lib.jit_train_step(
    model=model,
    tx=tx,
    options=train_step_lib.StepOptions(
      WEIGHTING,
      num_microbatches=num_microbatches,
      logits_at_once=LOGITS_AT_ONCE,
    ),
    partitioner=partitioner,
    state_shardings=partitioner.state_shardings(state, axes),
    base_key=jax.random.key(0),
  )
  return step.lower(state, random_batch()), shapes


def plain_losses(model, params, batch, *settings):
  """Logits, and losses of their tokens; of a batch in one piece."""

  @jax.jit  # or each operation would be a program
  def compute(params, batch):
    logits = model.apply(params, batch)
    targets = batch["decoder_target_tokens"]
    return logits, *token_losses.token_nll(logits, targets, *settings)

  return jax.device_get(compute(params, batch))


def assert_close(got, want, rel=1e-6):
  """Every leaf within `rel` of its own norm."""

  def check(a, b):
    difference = np.linalg.norm(np.asarray(a, np.float64) - b)
    assert difference <= rel * np.linalg.norm(b) + 1e-12

  jax.tree.map(check, got, want)


@functools.cache
def reference(name):
  """Three steps on one device, batch and logits in one piece."""
  return run(ONE(), OPTIMIZERS[name], logits_at_once=None)


class TestSameEverywhere:
  @pytest.mark.parametrize(
    ("name", "num_microbatches", "settings"),
    [
      pytest.param(
        "adafactor",
        4,
        {"devices": tuple(jax.devices()[:1])},
        marks=pytest.mark.slow,
      ),
      (
        "adafactor",
        2,
        {
          "num_partitions": 2,
          "fully_sharded": True,
          "fully_sharded_min_size": 0,
        },
      ),
      pytest.param("adamw", 1, {}, marks=pytest.mark.slow),
      pytest.param(
        "adamw",
        2,
        {
          "fully_sharded": True,
          "fully_sharded_min_size": 0,
          "fully_sharded_devices": 2,
        },
        marks=pytest.mark.slow,
      ),
      pytest.param(
        "scaled_adam",
        2,
        {
          "num_partitions": 2,
          "logical_axis_rules": standard_logical_axis_rules(2, 2),
        },
        marks=pytest.mark.slow,
      ),
    ],
  )
  def test_three_steps(self, name, num_microbatches, settings):
    want_state, want_sums = reference(name)
    state, sums = run(
      Partitioner(**settings), OPTIMIZERS[name], num_microbatches
    )
    assert_close(state.params, want_state.params)
    assert_close(state.opt_state, want_state.opt_state, rel=3e-6)
    assert int(state.step) == 3
    for got, want in zip(sums, want_sums, strict=True):
      assert sorted(got) == sorted(want)
      for key in got:
        np.testing.assert_allclose(got[key], want[key], rtol=2e-6)

  @pytest.mark.slow
  @pytest.mark.parametrize("devices", [1, 8])
  def test_gradients_of_micro_batches_add_up(self, devices):
    model = ToyStudent()
    partitioner = Partitioner(devices=tuple(jax.devices()[:devices]))
    params = model.init(jax.random.key(0))
    batch = random_batch()
    batch["token_weights"] = WEIGHTING(batch)
    batch = partitioner.put_batch(batch)

    def loss_fn(params, micro, key):
      del key
      logits = model.apply(params, micro)
      nll, _ = token_losses.token_nll(logits, micro["decoder_target_tokens"])
      return jnp.sum(nll * micro["token_weights"]), {}

    @functools.partial(jax.jit, static_argnums=2)
    def grads(params, batch, n):
      return train_step_lib.accumulate(
        loss_fn, params, batch, jax.random.key(0), n
      )

    (loss, _), want = grads(params, batch, 1)
    for n in (2, 16 // devices):
      (micro_loss, _), got = grads(params, batch, n)
      assert_close(got, jax.device_get(want))
      assert float(micro_loss) == pytest.approx(float(loss), rel=1e-6)


def test_every_micro_batch_has_its_own_dropout_key():
  keys = []

  def loss_fn(params, micro, key):
    keys.append(key)
    return jnp.sum(params), {"key": jax.random.key_data(key)}

  base = jax.random.key(3)
  (_, sums), _ = train_step_lib.accumulate(
    loss_fn, jnp.ones(2), {"x": jnp.zeros((4, 1))}, base, 1
  )
  assert jnp.issubdtype(keys[0].dtype, jax.dtypes.prng_key)
  want = jax.random.key_data(jax.random.fold_in(base, 0))
  np.testing.assert_array_equal(sums["key"], want)

  def one_hot_of_key(params, micro, key):
    del micro
    drawn = jax.random.uniform(key)
    return jnp.sum(params) * drawn, {"drawn": jnp.square(drawn)}

  # Were all four draws equal, the mean of squares would be the squared mean.
  (total, sums), _ = train_step_lib.accumulate(
    one_hot_of_key, jnp.ones(1), {"x": jnp.zeros((4, 1))}, base, 4
  )
  assert float(sums["drawn"]) / 4 > (float(total) / 4) ** 2 * 1.001


def test_every_step_has_its_own_dropout_key():
  """The same parameters and batch at other steps, and again at the first."""
  model, batch = ToyStudent(dropout_rate=0.5), random_batch()
  tx = optax.identity()
  state = train_state.TrainState.create(model.init(jax.random.key(0)), tx)

  @jax.jit
  def loss(step):
    _, sums = train_step_lib.train_step(
      state.replace(step=step),
      batch,
      model=model,
      tx=tx,
      base_key=jax.random.key(7),
      options=train_step_lib.StepOptions(WEIGHTING),
    )
    return sums["loss"]

  losses_of_steps = [float(loss(step)) for step in (0, 1, 2, 0)]
  assert len(set(losses_of_steps[:3])) == 3
  assert losses_of_steps[3] == losses_of_steps[0]


class TestStep:
  def test_metrics(self):
    """Every sum, against a plain computation of the same numbers."""
    model = ToyStudent()
    params = jax.jit(model.init)(jax.random.key(0))
    batch = random_batch()
    sums = reference("adafactor")[1][0]
    logits, nll, z = plain_losses(model, params, batch, 1e-3, 0.05)
    targets = batch["decoder_target_tokens"]
    ids = batch["decoder_subtask_ids"]
    right = (logits.argmax(-1) == targets) & (ids > 0)
    weighted = {}
    for k, name in enumerate(("label", "rationale"), 1):
      mine = ids == k
      assert sums["tokens"][k - 1] == mine.sum()
      assert sums["correct"][k - 1] == right[mine].sum()
      assert sums["nll"][k - 1] == pytest.approx(
        float(nll[mine].sum()), rel=1e-5
      )
      w = batch["decoder_example_weights"][mine]
      weighted[name] = float((w * (nll + z)[mine]).sum() / w.sum())
      weighted[name, "z"] = float((w * z[mine]).sum() / w.sum())
    want = 0.4 * weighted["label"] + 0.6 * weighted["rationale"]
    assert sums["loss"] == pytest.approx(want, rel=1e-5)
    want = 0.4 * weighted["label", "z"] + 0.6 * weighted["rationale", "z"]
    assert sums["z_loss"] == pytest.approx(want, rel=1e-5)
    np.testing.assert_array_equal(sums["examples"], [15, 7])
    assert sums["encoder_tokens"] == (batch["encoder_segment_ids"] > 0).sum()
    assert sums["decoder_tokens"] == (ids > 0).sum()
    assert sums["param_norm"] == pytest.approx(
      float(optax.tree.norm(params)), rel=1e-5
    )
    assert sums["learning_rate"] == pytest.approx(0.1)
    assert sums["nonfinite"] == 0

  def test_nonfinite_step_changes_only_the_step(self):
    partitioner = SHARDED()
    state, step = start(
      ToyStudent(), OPTIMIZERS["adafactor"], partitioner, **SETTINGS
    )
    good, bad = random_batch(0), random_batch(1)
    bad["decoder_example_weights"][3, 0] = np.nan
    state, sums = step(state, partitioner.put_batch(good))
    assert int(sums["nonfinite"]) == 0
    before = jax.device_get(state)
    state, sums = step(state, partitioner.put_batch(bad))
    assert int(sums["nonfinite"]) == 1
    assert not np.isfinite(sums["loss"])
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(
      np.testing.assert_array_equal, after.opt_state, before.opt_state
    )
    assert (int(before.step), int(after.step)) == (1, 2)
    state, sums = step(state, partitioner.put_batch(good))
    assert int(sums["nonfinite"]) == 0
    # The schedule follows the step, skipped ones included.
    assert float(sums["learning_rate"]) == pytest.approx(0.1 / 3)
    assert int(state.opt_state.count) == 2
    assert not np.array_equal(state.params["logits"], before.params["logits"])

  def test_compiles_once_and_donates(self):
    partitioner = SHARDED()
    state, step = start(
      ToyStudent(), OPTIMIZERS["adafactor"], partitioner, **SETTINGS
    )
    batches = [partitioner.put_batch(random_batch(seed)) for seed in range(3)]
    before = compilations.count()
    new_state, _ = step(state, batches[0])
    assert compilations.count() == before + 1
    old = jax.tree.leaves(state)
    assert all(leaf.is_deleted() for leaf in old)
    for batch in batches[1:]:
      new_state, _ = step(new_state, batch)
    assert compilations.count() == before + 1
    assert int(new_state.step) == 3

  def test_numbers_are_arguments(self):
    """One compiled program updates by the rate and weights it is given."""
    model = ToyStudent()
    params = model.init(jax.random.key(0))
    tx = OPTIMIZERS["scaled_adam"].transform(
      learning_rate, params, model.param_axes()
    )
    state = train_state.TrainState.create(params, tx)
    batch = random_batch()
    del batch["decoder_example_weights"]  # all examples count the same
    step = jax.jit(
      functools.partial(
        train_step_lib.train_step,
        model=model,
        tx=tx,
        base_key=jax.random.key(7),
        options=train_step_lib.StepOptions(WEIGHTING),
      )
    )

    def run(rate, weights):
      numbers = train_step_lib.StepNumbers(
        weights, schedules.create_learning_rate_scheduler("constant", rate)
      )
      new, sums = jax.device_get(step(state, batch, numbers=numbers))
      change = jax.tree.map(np.subtract, new.params, params)
      return change, sums

    once, sums = run(0.25, (0.4, 0.6))
    assert sums["learning_rate"] == 0.25
    compiled = compilations.count()
    twice, sums = run(0.5, (0.4, 0.6))
    assert sums["learning_rate"] == 0.5
    assert_close(twice, jax.tree.map(lambda x: 2 * x, once), rel=1e-5)
    means = sums["nll"] / sums["tokens"]
    for weights in ((0.4, 0.6), (1.0, 0.0), (2.0, 0.5)):
      _, sums = run(0.5, weights)
      assert sums["loss"] == pytest.approx(np.dot(means, weights), rel=1e-6)
      assert sums["subtask_weights"] == pytest.approx(weights)
    assert compilations.count() == compiled

  def test_a_loss_of_pairs_adds_up(self):
    """Over devices and micro-batches: its gradient is that of the batch."""
    aux_loss = MutualInformation(weight=3.0).between(("label", "rationale"))
    found = []
    cases: list[tuple[Partitioner, dict[str, Any]]] = [
      (ONE(), {}),
      (ONE(), {"num_microbatches": 4}),
      (SHARDED(), {"num_microbatches": 2}),
    ]
    for partitioner, settings in cases:
      state, step = start(
        ToyStudent(),
        OPTIMIZERS["adamw"],
        partitioner,
        aux_loss=aux_loss,
        **settings,
      )
      batch = partitioner.put_batch(random_batch())
      state, sums = jax.device_get(step(state, batch))
      found.append((state.params, sums["loss"], sums["aux_loss"]))
      assert sums["pairs"] == ROWS // 2 - 1  # every second row, not the last
    assert found[0][2] > 1
    for other in found[1:]:
      assert_close(other, found[0], rel=1e-5)

  def test_weights_follow_their_schedules(self):
    """Every step has the loss of its own weights; a step is a position."""
    alpha = {0: 1.0, 1: 0.75, 3: 0.25}
    weighting = losses.Objective(alpha=alpha).weighting(("label", "rationale"))
    partitioner = ONE()
    state, step = start(
      ToyStudent(), OPTIMIZERS["adamw"], partitioner, weighting=weighting
    )
    batch = random_batch()
    del batch["decoder_example_weights"]  # all examples count the same
    batch = partitioner.put_batch(batch)
    for label in (1.0, 0.75, 0.5, 0.25, 0.25):
      state, sums = step(state, batch)
      sums = jax.device_get(sums)
      means = sums["nll"] / sums["tokens"]
      want = label * means[0] + (1 - label) * means[1]
      assert float(sums["loss"]) == pytest.approx(want, rel=1e-6)
      assert sums["subtask_weights"].tolist() == [label, 1 - label]

  @pytest.mark.slow
  def test_learns(self):
    partitioner = Partitioner()
    state, step = start(
      ToyStudent(), optimizers.AdamW(clip_norm=1.0), partitioner
    )
    batch = partitioner.put_batch(random_batch())
    trace = []
    for _ in range(30):
      state, sums = step(state, batch)
      trace.append(float(sums["loss"]))
    assert trace[-1] < 0.7 * trace[0]

  def test_indivisible_batches_are_one_clear_line(self):
    state, step = start(
      ToyStudent(), OPTIMIZERS["adamw"], Partitioner(), num_microbatches=4
    )
    with pytest.raises(UserError, match=r"batch_size is 16 .*4 micro-batches"):
      step(state, random_batch())
    with pytest.raises(
      UserError, match="16 rows, not a multiple of 3"
    ) as error:
      train_step_lib.split_microbatches(random_batch(), 3)
    assert "TrainConfig.num_microbatches" in error.value.fields

  def test_microbatch_i_takes_rows_i_plus_multiples_of_n(self):
    batch = {"x": jnp.arange(6), "y": jnp.arange(12).reshape(6, 2)}
    split = train_step_lib.split_microbatches(batch, 3)
    np.testing.assert_array_equal(split["x"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(split["y"][1], [[2, 3], [8, 9]])

  def test_eval_step(self):
    """The sums of a train step, on any mesh, from parameters alone."""
    model, partitioner = ToyStudent(dropout_rate=0.5), Partitioner(2)
    params = jax.jit(model.init)(jax.random.key(0))
    shardings = partitioner.param_shardings(params, model.param_axes())
    step = train_step_lib.jit_eval_step(
      model=model,
      partitioner=partitioner,
      param_shardings=shardings,
      num_subtasks=2,
    )
    params = jax.device_put(params, shardings)
    batch = random_batch()
    sums = step(params, partitioner.put_batch(batch))
    _, nll, _ = plain_losses(model, params, batch)
    for k in (1, 2):
      mine = batch["decoder_subtask_ids"] == k
      assert float(sums["nll"][k - 1]) == pytest.approx(
        float(nll[mine].sum()), rel=1e-5
      )
      assert int(sums["tokens"][k - 1]) == mine.sum()


# ---- The real student --------------------------------------------------------


def real_student(**changes):
  from dss_jax.models import config, encoder_decoder

  settings: dict[str, Any] = {
    "vocab_size": VOCAB,
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
  } | changes
  return encoder_decoder.EncoderDecoderModel(config.T5Config(**settings))


@pytest.mark.slow
def test_official_loss_and_gradient_packed_and_unpacked():
  """The official two padded forward passes, against one packed pass.

  alpha = 1 must moreover be training on labels alone.
  """
  model = real_student()
  params = jax.jit(model.init)(jax.random.key(1))
  records = [
    tuple((k, i, t, 1.0) for k, i, t, _ in record)
    for record in random_examples(3, 6)
  ]
  labels, rationales = (
    packed_rows([[r[k]] for r in records], 6, 8) for k in (0, 1)
  )
  flat = [[example] for record in records for example in record]
  unpacked = packed_rows(flat, 12, 8)
  packed = packed_rows([list(r) for r in records] + [[]] * 2, 8, 16)

  def mean_cross_entropy(params, batch):
    """Hugging Face's: the mean over all targets but padding."""
    batch = {k: v for k, v in batch.items() if "segment" not in k}
    log_p = jax.nn.log_softmax(model.apply(params, batch))
    targets = batch["decoder_target_tokens"]
    nll = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    real = targets != 0
    return jnp.sum(jnp.where(real, nll, 0)) / jnp.sum(real)

  def official(params, alpha):
    two_passes = alpha * mean_cross_entropy(params, labels)
    return two_passes + (1 - alpha) * mean_cross_entropy(params, rationales)

  def ours(params, alpha, batch):
    weighting = losses.Objective(alpha).weighting(("label", "rationale"))
    nll, _ = token_losses.token_nll(
      model.apply(params, batch), batch["decoder_target_tokens"]
    )
    return jnp.sum(weighting(batch) * nll)

  official = jax.jit(jax.value_and_grad(official))
  ours = jax.jit(jax.value_and_grad(ours), static_argnums=1)

  def compare(alpha, batch):
    want, want_grads = official(params, alpha)
    got, grads = ours(params, alpha, batch)
    assert float(got) == pytest.approx(float(want), rel=1e-6)
    assert_close(grads, want_grads, rel=3e-6)

  compare(0.5, packed)
  compare(0.5, unpacked)
  compare(1.0, packed)
  # alpha = 1 again, with the rationales taken out of the batch.
  compare(1.0, packed_rows([[r[0]] for r in records] + [[]] * 2, 8, 16))


def all_gathers(text):
  """Shapes that the all-gathers of a compiled program produce."""
  found = set()
  for line in text.splitlines():
    match = re.search(r"= (.*?) all-gather(?:-start)?\(", line)
    if match:
      for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", match.group(1)):
        found.add((kind, tuple(int(d) for d in dims.split(",") if d)))
  return found


STUDENTS = [
  pytest.param(ToyStudent, 0, id="toy"),
  pytest.param(real_student, 20, id="real", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("student", "constraints"), STUDENTS)
class TestCompiledProgram:
  def test_constraints_survive_and_the_batch_stays_put(
    self, student, constraints
  ):
    lowered, _ = lowered_step(Partitioner(), student(), num_microbatches=2)
    found = lowered.as_text().count("sharding_constraint")
    assert found > constraints
    # Whole parameters, split batch: nothing at all has to be gathered.
    assert all_gathers(lowered.compile().as_text()) == set()

  @pytest.mark.slow
  def test_fully_sharded_gathers_parameters_only(self, student, constraints):
    del constraints
    partitioner = Partitioner(fully_sharded=True, fully_sharded_min_size=0)
    lowered, shapes = lowered_step(partitioner, student(), num_microbatches=2)
    gathered = all_gathers(lowered.compile().as_text())
    assert gathered  # parameters do live apart
    allowed = {leaf.shape for leaf in jax.tree.leaves(shapes)}
    allowed |= {shape[::-1] for shape in allowed}  # the transposed layout
    for kind, shape in gathered:
      squeezed = tuple(n for n in shape if n != 1)
      assert (kind, squeezed in allowed) == ("f32", True), (kind, shape)


@pytest.mark.slow
def test_adjacent_micro_batches_would_gather_the_batch(monkeypatch):
  """The trap our splitting avoids, so that the test above can fail."""

  def adjacent(batch, n):
    return jax.tree.map(lambda x: x.reshape(n, -1, *x.shape[1:]), dict(batch))

  monkeypatch.setattr(train_step_lib, "split_microbatches", adjacent)
  lowered, _ = lowered_step(Partitioner(), ToyStudent(), num_microbatches=2)
  text = lowered.compile().as_text() or ""
  assert all_gathers(text) or "all-to-all" in text


@pytest.mark.slow
def test_scanned_on_eight_devices_is_unscanned_on_one():
  """Two Adafactor steps: layers one by one, on one device, in one piece;
  and stacked, fully sharded over a 4 x 2 mesh, in two micro-batches."""
  from dss_jax.models import layer_stacking

  optimizer = OPTIMIZERS["adafactor"]
  plain, scanned = (
    real_student(scan_layers=scan, num_decoder_layers=2, num_encoder_layers=2)
    for scan in (False, True)
  )
  params = jax.jit(plain.init)(jax.random.key(1))
  scanned.init = lambda key: layer_stacking.stack_layers(
    jax.jit(plain.init)(jax.random.key(1))
  )
  plain.init = lambda key: params
  want, want_sums = run(ONE(), optimizer, 1, plain, steps=2)
  partitioner = Partitioner(2, fully_sharded=True, fully_sharded_min_size=0)
  got, sums = run(partitioner, optimizer, 2, scanned, steps=2)
  unstacked = layer_stacking.unstack_layers(got.params)
  assert_close(unstacked, want.params, rel=2e-6)
  for a, b in zip(sums, want_sums, strict=True):
    assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=2e-6)


@pytest.mark.slow
def test_bfloat16_activations():
  """float32 parameters and moments; a loss close to that of float32."""
  partitioner = Partitioner(2)
  state, step = start(
    real_student(dtype="bfloat16"), OPTIMIZERS["scaled_adam"], partitioner
  )
  params, batch = jax.device_get(state.params), random_batch()
  state, sums = step(state, partitioner.put_batch(batch))
  types = {str(leaf.dtype) for leaf in jax.tree.leaves(state)}
  assert types == {"float32", "int32"}
  assert int(sums["nonfinite"]) == 0

  @jax.jit
  def exact_loss(params, batch):
    logits = real_student().apply(params, batch)
    nll, _ = token_losses.token_nll(logits, batch["decoder_target_tokens"])
    return jnp.sum(WEIGHTING(batch) * nll)

  want = float(exact_loss(params, batch))
  assert float(sums["loss"]) == pytest.approx(want, rel=0.02)
  assert float(sums["loss"]) != want


HOST = """
import importlib.util, sys
import jax
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=int(sys.argv[3]))
spec = importlib.util.spec_from_file_location("laws", sys.argv[1])
laws = importlib.util.module_from_spec(spec)
spec.loader.exec_module(laws)

devices = jax.devices()
if sys.argv[5] == "crossed":  # as on TPU slices, where meshes follow the links
  devices = devices[::2] + devices[1::2]
partitioner = laws.Partitioner(int(sys.argv[4]), fully_sharded=True,
                               fully_sharded_min_size=0, devices=devices)
state, step = laws.start(
    laws.ToyStudent(0.2), laws.OPTIMIZERS["adafactor"], partitioner,
    num_microbatches=2)
shapes = {k: v.shape for k, v in laws.random_batch().items()}
rows = partitioner.process_rows(laws.ROWS)
for seed in range(2):
  # This host makes its own rows only.
  local = {k: v[rows] for k, v in laws.random_batch(seed).items()}
  state, sums = step(state, partitioner.put_batch(local, shapes))
print(*rows, float(sums["loss"]), float(sums["grad_norm"]))
jax.distributed.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("num_partitions", "order", "host_rows"),
  [
    pytest.param(
      2, "adjacent", np.arange(ROWS).reshape(2, -1), marks=pytest.mark.thorough
    ),
    (4, "adjacent", np.arange(ROWS).reshape(1, -1).repeat(2, 0)),
    (1, "crossed", np.arange(ROWS).reshape(2, 2, -1).swapaxes(0, 1)),
  ],
  ids=["2", "4", "1-crossed"],
)
def test_two_hosts_train_as_one(num_partitions, order, host_rows, tmp_path):
  """Two processes of two devices each, over gloo, against one device.

  Dropout included: masks do not depend on where they are drawn. With 4
  partitions the model spans both hosts and each has all the rows; crossed, each
  has every other quarter.
  """
  script = tmp_path / "host.py"
  script.write_text(HOST)
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  environment = os.environ | {
    "XLA_FLAGS": os.environ["XLA_FLAGS"]
    + " --xla_force_host_platform_device_count=2",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  hosts = [
    subprocess.Popen(
      [
        sys.executable,
        str(script),
        __file__,
        address,
        str(i),
        str(num_partitions),
        order,
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )
    for i in range(2)
  ]
  try:
    results = [host.communicate(timeout=120) for host in hosts]
  finally:
    for host in hosts:
      host.kill()
  assert [host.returncode for host in hosts] == [0, 0], results[0][1][-2000:]
  _, want = run(
    ONE(),
    OPTIMIZERS["adafactor"],
    2,
    ToyStudent(0.2),
    steps=2,
    z_loss=0.0,
    label_smoothing=0.0,
  )
  for (out, _), rows in zip(results, host_rows, strict=True):
    # Above it, what gloo has to say.
    *found, loss, grad_norm = out.splitlines()[-1].split()
    assert [int(row) for row in found] == rows.flatten().tolist()
    assert float(loss) == pytest.approx(float(want[-1]["loss"]), rel=2e-6)
    assert float(grad_norm) == pytest.approx(
      float(want[-1]["grad_norm"]), rel=2e-6
    )


@pytest.mark.slow
def test_runs_with_tensorflow_seqio_gin_and_flax_blocked():
  code = """
    import sys
    for name in ("tensorflow", "seqio", "gin", "flax", "t5x"):
      sys.modules[name] = None
    import jax, jax.numpy as jnp
    from dss_jax.training import losses, optimizers, token_losses, train_state, train_step
    from dss_jax.training.optimizers import schedules

    class Model:
      def hidden_states(self, params, batch, *, dropout_key=None):
        return params["w"][batch["decoder_input_tokens"]]

      def logits(self, params, hidden):
        return hidden

    fn = schedules.create_learning_rate_scheduler(warmup_steps=1)
    params = {"w": jnp.ones((5, 5))}
    tx = optimizers.Adafactor().transform(fn, params)
    state = train_state.TrainState.create(params, tx)
    tokens = jnp.array([[1, 2], [3, 4]])
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
    }
    state, sums = jax.jit(
        lambda state, batch: train_step.train_step(
            state, batch, model=Model(), tx=tx, base_key=jax.random.key(0),
            options=train_step.StepOptions(losses.Weighting()),
        )
    )(state, batch)
    print(int(state.step), round(float(sums["loss"]), 4))
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.stdout.split() == ["1", "1.6094"], done.stderr
