"""Losses and token weights against hand-worked numbers and references."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.training import losses, token_losses, weight_schedules

# Two packed rows of six positions, worked by hand. Row 0: a label of 2 tokens,
# a rationale of 3; row 1: a rationale of 4 with weight 1/2; padding.
PACKED = {
  "decoder_target_tokens": np.array([[5, 1, 6, 7, 1, 0], [8, 9, 4, 1, 0, 0]]),
  "decoder_loss_weights": np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]),
  "decoder_segment_ids": np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]]),
  "decoder_positions": np.array([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 0]]),
  "decoder_subtask_ids": np.array([[1, 1, 2, 2, 2, 0], [2, 2, 2, 2, 0, 0]]),
  "decoder_example_weights": np.array(
    [[1, 1, 1, 1, 1, 0], [0.5, 0.5, 0.5, 0.5, 0, 0]], np.float32
  ),
  "encoder_input_tokens": np.array([[3, 3, 3, 0], [3, 3, 3, 3]]),
  "encoder_segment_ids": np.array([[1, 2, 2, 0], [1, 1, 1, 1]]),
}
PACKED = {
  k: v if v.dtype == np.float32 else v.astype(np.int32)
  for k, v in PACKED.items()
}


class TestWeighting:
  @pytest.mark.parametrize(
    ("normalizer", "label", "full", "half"),
    [
      # n = 2 label tokens, 3 + 4/2 = 5 rationale tokens.
      ("subtask_tokens", 0.25 / 2, 0.75 / 5, 0.375 / 5),
      ("all_tokens", 0.25 / 7, 0.75 / 7, 0.375 / 7),
      ("NUM_REAL_TARGET_TOKENS", 0.25 / 7, 0.75 / 7, 0.375 / 7),
      # 1 label, 1 + 1/2 rationales.
      ("examples", 0.25, 0.75 / 1.5, 0.375 / 1.5),
      ("NUM_TOTAL_TARGET_TOKENS", 0.25 / 12, 0.75 / 12, 0.375 / 12),
      # Each token a share of its example, 2.5 examples.
      (
        "AVERAGE_PER_SEQUENCE",
        0.25 / 2 / 2.5,
        0.75 / 3 / 2.5,
        0.375 / 4 / 2.5,
      ),
      (8, 0.25 / 8, 0.75 / 8, 0.375 / 8),
      (None, 0.25, 0.75, 0.375),
    ],
  )
  def test_by_hand(self, normalizer, label, full, half):
    weights = losses.Weighting((0.25, 0.75), normalizer)(PACKED)
    want = [[label] * 2 + [full] * 3 + [0], [half] * 4 + [0] * 2]
    np.testing.assert_allclose(weights, want, rtol=1e-6)
    assert weights.dtype == jnp.float32

  def test_one_subtask_is_the_plain_mean(self):
    batch = {
      "decoder_target_tokens": jnp.array([[4, 5, 1, 0], [6, 1, 0, 0]]),
      "decoder_loss_weights": jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]]),
    }
    want = np.array([[1, 1, 1, 0], [1, 1, 0, 0]]) / 5
    np.testing.assert_allclose(losses.Weighting()(batch), want, rtol=1e-6)
    del batch["decoder_loss_weights"]  # then padding is id 0, as in T5X
    np.testing.assert_allclose(losses.Weighting()(batch), want, rtol=1e-6)

  def test_unpacked_average_per_sequence(self):
    batch = {"decoder_target_tokens": jnp.array([[4, 5, 1, 0], [6, 1, 0, 0]])}
    weights = losses.Weighting((1.0,), "AVERAGE_PER_SEQUENCE")(batch)
    want = [[1 / 6] * 3 + [0], [1 / 4] * 2 + [0, 0]]
    np.testing.assert_allclose(weights, want, rtol=1e-6)

  @pytest.mark.parametrize("normalizer", losses.NORMALIZERS)
  def test_absent_subtask_and_empty_batch_weigh_nothing(self, normalizer):
    only_labels = dict(PACKED)
    for name in ("decoder_loss_weights", "decoder_subtask_ids"):
      only_labels[name] = np.where(PACKED["decoder_subtask_ids"] == 1, 1, 0)
    weighting = losses.Weighting((0.5, 0.5), normalizer)
    weights = np.asarray(weighting(only_labels))
    assert np.all(np.isfinite(weights))
    assert np.all((weights > 0) == (only_labels["decoder_subtask_ids"] == 1))
    empty = {k: np.zeros_like(v) for k, v in PACKED.items()}
    np.testing.assert_array_equal(weighting(empty), np.zeros((2, 6)))

  def test_less_than_one_token_is_not_blown_up(self):
    batch = dict(PACKED)
    batch["decoder_example_weights"] = np.full((2, 6), 0.1, np.float32)
    weights = losses.Weighting((1.0, 1.0))(batch)
    np.testing.assert_allclose(weights[0, 0], 0.1)  # n = 0.2 counts as 1

  def test_subtask_beyond_the_weights_is_loud(self):
    assert np.isnan(losses.Weighting((1.0,))(PACKED)).any()

  @pytest.mark.parametrize("normalizer", ["tokens", 0, -1.0, math.nan])
  def test_unknown_normalizer(self, normalizer):
    with pytest.raises(UserError, match=r"^normalizer is") as error:
      losses.Weighting((1.0,), normalizer)
    assert error.value.fields == ("Objective.normalizer",)
    assert "AVERAGE_PER_SEQUENCE" in str(error.value)

  @pytest.mark.parametrize("weights", [(), (-1.0, 1.0), (math.nan,), (0.0,)])
  def test_unusable_weights(self, weights):
    with pytest.raises(UserError, match=r"^subtask_weights is") as error:
      losses.Weighting(weights)
    assert "Objective.alpha" in error.value.fields


class TestObjective:
  def test_alpha_goes_to_the_label_wherever_it_stands(self):
    objective = losses.Objective(alpha=0.3)
    assert objective.weighting(("label",)).subtask_weights == (1.0,)
    got = objective.weighting(("label", "rationale")).subtask_weights
    assert got == (0.3, 0.7)
    got = objective.weighting(("rationale", "label")).subtask_weights
    assert got == (0.7, 0.3)

  def test_several_teachers_share_what_alpha_leaves(self):
    objective = losses.Objective(alpha=0.4)
    names = ("label", "rationale_a", "rationale_b", "rationale_c")
    got = objective.weighting(names).subtask_weights
    assert got == pytest.approx((0.4, 0.2, 0.2, 0.2))

  def test_weights_by_name(self):
    objective = losses.Objective(
      subtask_weights={"a": 1, "label": 2, "b": 0.5}, normalizer="examples"
    )
    weighting = objective.weighting(("label", "b", "a"))
    assert weighting == losses.Weighting((2.0, 0.5, 1.0), "examples")

  def test_alpha_and_its_rest_change_linearly(self):
    objective = losses.Objective(alpha={1000: 0.5, 0: 0.9, 3000: 0.75})
    weighting = objective.weighting(("rationale", "label"))
    steps = (0, 1, 250, 999, 1000, 1500, 3000, 10**6)
    want = np.interp(steps, (0, 1000, 3000), (0.9, 0.5, 0.75))
    for step, alpha in zip(steps, want, strict=True):
      got = weight_schedules.at(weighting.subtask_weights, step)
      np.testing.assert_allclose(got, (1 - alpha, alpha), rtol=1e-6)

  def test_each_weight_may_have_steps_of_its_own(self):
    objective = losses.Objective(
      subtask_weights={"a": {10: 1.0, 20: 0.0}, "b": 2, "c": {0: 0, 40: 4}}
    )
    weights = objective.weighting(("a", "b", "c")).subtask_weights
    assert weight_schedules.at(weights, 15) == (0.5, 2.0, 1.5)

  def test_weights_that_are_zero_at_a_time(self):
    weights = {"a": {0: 1.0, 10: 0.0}, "b": {0: 1.0, 20: 0.0, 30: 1.0}}
    with pytest.raises(UserError, match="at step 20"):
      losses.Objective(subtask_weights=weights).weighting(("a", "b"))

  @pytest.mark.parametrize(
    ("settings", "names", "field", "words"),
    [
      ({"alpha": {}}, "a", "alpha", ["{}", "{0: 0.9, 1000: 0.5}"]),
      ({"alpha": {0: 0.5, 10: 1.5}}, "a", "alpha", ["1.5", "from 0 to 1"]),
      ({"alpha": {0.5: 0.5}}, "a", "alpha", ["{0.5: 0.5}", "steps"]),
      ({"alpha": {-1: 0.5}}, "a", "alpha", ["-1", "steps"]),
      ({"alpha": {True: 0.5}}, "a", "alpha", ["True", "steps"]),
      (
        {"subtask_weights": {"a": {0: "x"}}},
        "a",
        "subtask_weights",
        ["'x'"],
      ),
      ({}, "abc", "subtask_weights", ["3", "subtask_weights"]),
      (
        {"subtask_weights": {"a": 1}},
        "ab",
        "subtask_weights",
        ["['a']", "['a', 'b']"],
      ),
      ({"alpha": 1.5}, "a", "alpha", ["1.5"]),
      ({"alpha": "x"}, "a", "alpha", ["'x'"]),
      ({"label_smoothing": 1.0}, "a", "label_smoothing", ["1.0"]),
      ({"label_smoothing": "x"}, "a", "label_smoothing", ["'x'"]),
      ({"z_loss": -1e-4}, "a", "z_loss", ["-0.0001"]),
      ({"z_loss": math.inf}, "a", "z_loss", ["inf"]),
    ],
  )
  def test_mistakes(self, settings, names, field, words):
    with pytest.raises(UserError) as error:
      losses.Objective(**settings).weighting(tuple(names))
    assert error.value.fields == (f"Objective.{field}",)
    for word in words:
      assert word in str(error.value)


def test_subtask_sums_by_hand():
  correct = np.zeros((2, 6), bool)
  for row, position in [(0, 0), (0, 2), (1, 3), (1, 5)]:  # the last is padding
    correct[row, position] = True
  nll = jnp.arange(12, dtype=jnp.float32).reshape(2, 6)
  tokens = token_losses.TokenLosses(
    nll, jnp.zeros((2, 6)), jnp.asarray(correct)
  )
  sums = losses.subtask_sums(tokens, PACKED, 2)
  np.testing.assert_array_equal(sums["nll"], [0 + 1, 2 + 3 + 4 + 6 + 7 + 8 + 9])
  np.testing.assert_array_equal(sums["tokens"], [2, 7])
  np.testing.assert_array_equal(sums["correct"], [1, 2])
  np.testing.assert_array_equal(sums["examples"], [1, 2])
  assert (int(sums["encoder_tokens"]), int(sums["decoder_tokens"])) == (7, 9)


def test_padding_of_plain_rows_is_no_token():
  """Batches without segment ids, as plain SeqIO makes them."""
  batch = {
    "encoder_input_tokens": jnp.array([[3, 3, 1, 0], [3, 1, 0, 0]]),
    "decoder_target_tokens": jnp.array([[4, 5, 1, 0], [6, 1, 0, 0]]),
  }
  ones = jnp.ones((2, 4))
  tokens = token_losses.TokenLosses(ones, jnp.zeros((2, 4)), ones > 0)
  sums = losses.subtask_sums(tokens, batch, 1)
  assert {name: np.asarray(value).tolist() for name, value in sums.items()} == {
    "nll": [5.0],
    "tokens": [5],
    "correct": [5],
    "examples": [2],
    "encoder_tokens": 5,
    "decoder_tokens": 5,
  }


class TestOfficialLoss:
  """alpha · CE(labels) + (1 - alpha) · CE(rationales), each its own mean.

  The reference is the official computation: one padded batch per sub-task, two
  forward passes, Hugging Face's mean over targets that are not -100. Logits
  depend on the example and the position only, as in a model that honours
  segments; the real student does this in train_step_test.
  """

  def examples(self, n=5, vocab=13):
    rng = np.random.default_rng(1)
    make = lambda lo, hi: [  # noqa: E731
      rng.integers(1, vocab, rng.integers(lo, hi)) for _ in range(n)
    ]
    labels, rationales = make(1, 4), make(3, 9)
    logits = {
      (k, i): rng.normal(size=(len(t), vocab)) * 3
      for k, targets in enumerate([labels, rationales], 1)
      for i, t in enumerate(targets)
    }
    return {1: labels, 2: rationales}, logits, vocab

  def official(self, examples, logits, alpha):
    means = []
    for k in (1, 2):
      width = max(map(len, examples[k]))
      total, count = 0.0, 0
      for i, targets in enumerate(examples[k]):
        padded = np.full(width, -100)
        padded[: len(targets)] = targets
        for t, target in enumerate(padded):
          if target != -100:
            x = logits[k, i][t]
            total += np.log(np.exp(x).sum()) - x[target]
            count += 1
      means.append(total / count)
    return alpha * means[0] + (1 - alpha) * means[1]

  def rows(self, examples, logits, vocab, packed):
    """A batch and its logits; packed puts all of a record in one row."""
    order = [[(k, i)] for k in (1, 2) for i in range(len(examples[k]))]
    if packed:
      n = len(examples[1])
      order = [[(2, i), (1, (i + 1) % n)] for i in range(n)] + [[]]
    names = ("decoder_target_tokens", "decoder_segment_ids")
    names += ("decoder_subtask_ids", "decoder_loss_weights")
    batch = {name: np.zeros((len(order), 16), np.int32) for name in names}
    values = np.random.default_rng(2).normal(size=(len(order), 16, vocab))
    for row, members in enumerate(order):
      at = 0
      for segment, (k, i) in enumerate(members, 1):
        span = slice(at, at + len(examples[k][i]))
        columns = (examples[k][i], segment, k, 1)
        for name, value in zip(names, columns):
          batch[name][row, span] = value
        values[row, span] = logits[k, i]
        at = span.stop
    return batch, values.astype(np.float32)

  @pytest.mark.parametrize("packed", [False, True])
  @pytest.mark.parametrize("alpha", [0.5, 0.2])
  def test_equals_two_forward_passes(self, packed, alpha):
    examples, logits, vocab = self.examples()
    batch, values = self.rows(examples, logits, vocab, packed)
    weighting = losses.Objective(alpha).weighting(("label", "rationale"))

    @jax.jit
    def loss(values, batch):
      nll, _ = token_losses.token_nll(values, batch["decoder_target_tokens"])
      return jnp.sum(weighting(batch) * nll)

    got = float(loss(values, batch))
    assert got == pytest.approx(
      self.official(examples, logits, alpha), rel=1e-6
    )
