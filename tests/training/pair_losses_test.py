"""The mutual-information loss against loops over records and tokens."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from dss_jax.base.errors import UserError
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.training import losses, pair_losses, run_directory, train
from dss_jax.training.pair_losses import MutualInformation

VOCAB = 7
LOSS = MutualInformation().between(("label", "rationale"))
# Two rows: records 3 and 9, padding; record 4, whose label is alone, and 5.
BATCH = {
  "decoder_record_ids": np.array(
    [[3, 3, 3, 3, 9, 9, 9, 9, 0], [4, 4, 5, 5, 5, 5, 5, 0, 0]]
  ),
  "decoder_subtask_ids": np.array(
    [[1, 1, 2, 2, 2, 2, 1, 1, 0], [1, 1, 1, 2, 2, 2, 2, 0, 0]]
  ),
}


def _logits(shape=(2, 9, VOCAB)):
  return np.random.default_rng(5).normal(size=shape) * 2


def _softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def _by_hand(logits, batch, label=None):
  """The mean over pairs, float64; `label` replaces the logits of labels."""
  label = logits if label is None else label
  found = []
  for row in range(len(logits)):
    records, subtasks = (
      batch[f"decoder_{name}_ids"][row] for name in ("record", "subtask")
    )
    for record in set(records.tolist()) - {0}:
      targets = np.flatnonzero((records == record) & (subtasks == 1))
      inputs = np.flatnonzero((records == record) & (subtasks == 2))
      if len(targets) and len(inputs):
        p = _softmax(label[row, targets]).max(0)
        q = _softmax(logits[row, inputs]).max(0)
        found.append(-np.sum(p * np.log(_softmax(q))))
  return np.mean(found), len(found)


def _mean(logits, batch):
  pairs = LOSS.pairs(batch)
  return LOSS(logits, batch, pairs / jnp.sum(pairs))


def test_values():
  logits = _logits()
  want, number = _by_hand(logits, BATCH)
  assert number == 3
  batch = jax.tree.map(jnp.asarray, BATCH)
  pairs = LOSS.pairs(batch)
  # Each at its first token.
  assert np.argwhere(pairs).tolist() == [[0, 0], [0, 4], [1, 2]]
  got = _mean(jnp.asarray(logits, jnp.float32), batch)
  assert float(got) == pytest.approx(want, rel=1e-6)


def test_gradients_flow_to_the_rationale_alone():
  """Differences of the value by hand, of each logit; labels stay constant."""
  logits = _logits()
  batch = jax.tree.map(jnp.asarray, BATCH)
  got = jax.grad(_mean)(jnp.asarray(logits, jnp.float32), batch)
  want = np.zeros_like(logits)
  for place in np.ndindex(*logits.shape):
    step = np.zeros_like(logits)
    step[place] = 1e-5
    up, down = (
      _by_hand(logits + sign * step, BATCH, label=logits)[0] for sign in (1, -1)
    )
    want[place] = (up - down) / 2e-5
  assert np.abs(want).max() > 0.01
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_equal_maxima_share_the_gradient():
  logits = jnp.zeros((1, 4, VOCAB))
  batch = {
    "decoder_record_ids": jnp.ones((1, 4), jnp.int32),
    "decoder_subtask_ids": jnp.array([[1, 2, 2, 2]]),
  }
  value, gradient = jax.value_and_grad(_mean)(logits, batch)
  assert float(value) == pytest.approx(
    _by_hand(np.zeros((1, 4, VOCAB)), jax.tree.map(np.asarray, batch))[0]
  )
  np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("names", [("label",), ("label", "why")])
def test_both_subtasks_must_be_there(names):
  with pytest.raises(UserError, match="'rationale'") as error:
    MutualInformation().between(names)
  assert "Objective.aux_loss" in error.value.fields


def test_weight_is_checked():
  with pytest.raises(UserError, match="weight is -1"):
    MutualInformation(weight=-1)


def _config(folder, **changes):
  config = small_runs.config(folder, total_steps=3)
  settings = {
    "mixture_or_task_name": "taxonli_dss_paired",
    "method": MethodOptions(),
  }
  return dataclasses.replace(
    config,
    objective=losses.Objective(
      aux_loss=MutualInformation(weight={0: 0.0, 2: 1.0})
    ),
    train_dataset_cfg=dataclasses.replace(
      config.train_dataset_cfg, **(settings | changes)
    ),
  )


def test_a_run_logs_it(tmp_path):
  """Every record of a batch is a pair; the loss is the sum of its parts."""
  train.train(_config(tmp_path), stream=io.StringIO())
  lines = run_directory.read_jsonl(tmp_path / "metrics.jsonl")
  lines = [line for line in lines if line["kind"] == "train"]
  assert [line["pairs"] for line in lines] == [
    line["rationale/examples"] for line in lines
  ]
  assert lines[0]["aux_loss"] == 0
  assert 0 < lines[1]["aux_loss"] < lines[2]["aux_loss"]
  for line in lines:
    parts = 0.5 * (line["label/loss"] + line["rationale/loss"])
    assert line["loss"] == pytest.approx(parts + line["aux_loss"], rel=1e-5)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"mixture_or_task_name": "taxonli_dss"}, "paired method"),
    ({"pack": False}, "with pack"),
    ({"encoder_length": 24}, "encoder_length and decoder_length"),
  ],
)
def test_records_apart_are_refused(tmp_path, changes, words):
  with pytest.raises(UserError, match=words):
    train.train(_config(tmp_path, **changes), stream=io.StringIO())


def test_a_pair_needs_two_examples():
  batch = jax.tree.map(jnp.asarray, BATCH)
  alone = batch | {"decoder_subtask_ids": jnp.ones((2, 9), jnp.int32)}
  assert not pair_losses.PairLoss(0.1, 1, 2).pairs(alone).any()
