"""Self-consistency weights, from records to the loss of a batch, by hand."""

import numpy as np
import pytest

from dss_jax import datasets, vocabularies
from dss_jax.data.feeding import batches
from dss_jax.data.packing import batch_shapes
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.data.tokens import tokenization
from dss_jax.datasets.records import Rationale, Record, write_records
from dss_jax.training import losses

BYTES = vocabularies.from_name("bytes")

# As `dss-jax extract --samples=5` leaves them: a rationale weighs the share of
# the five votes for its label.
SHARES = {
  "r0 for yes": 0.6,
  "r0 because yes": 0.6,
  "r0 but no": 0.4,
  "r1 so no": 1.0,
  "r2 maybe yes": 0.2,
  "r2 rather no": 0.8,
  "r3 who knows": 0.0,
}


@pytest.fixture
def folder(tmp_path):
  by_record: dict[str, list[Rationale]] = {}
  for text, share in SHARES.items():
    rationales = by_record.setdefault(text[:2], [])
    rationales.append(Rationale(text, text.split()[-1], "llm", share))
  records = [
    Record(name, f"in {name}", "yes", tuple(rationales))
    for name, rationales in by_record.items()
  ]
  for split in ("train", "validation"):
    write_records(tmp_path / f"{split}.jsonl", records)
  return tmp_path


def _nll(tokens):
  """A loss for each target token: any numbers, the same wherever it stands."""
  return np.random.default_rng(5).uniform(1, 3, 400)[tokens]


def _examples_of(batch):
  """(sub-task, text, losses of its tokens) of the examples of a batch."""
  for row, segments in enumerate(batch["decoder_segment_ids"]):
    for segment in sorted(set(segments.tolist()) - {0}):
      at = segments == segment
      tokens = batch["decoder_target_tokens"][row][at]
      subtask = batch["decoder_subtask_ids"][row][at][0]
      yield int(subtask), BYTES.decode(tokens.tolist()), _nll(tokens)


@pytest.mark.parametrize(
  ("options", "kept"),
  [
    (MethodOptions(), 0.01),
    (MethodOptions(rationale_weights="equal"), 0.01),
    (MethodOptions(min_rationale_weight=0.6), 0.6),
    (MethodOptions(min_rationale_weight=0.6, rationale_weights="equal"), 0.6),
  ],
)
def test_the_loss_is_the_weighted_mean(folder, options, kept):
  examples = tokenization.build_examples(
    "cqa_dss_paired",
    "train",
    BYTES,
    datasets.DataOptions(source="records", data_dir=str(folder)),
    options,
  )
  shape = batch_shapes.choose_batch_shape(examples, records_per_batch=4)
  found = batches.PackedBatches(examples, shape, seed=0)
  weighting = losses.Objective(alpha=0.3).weighting(("label", "rationale"))
  seen = set()
  for step in range(6):
    batch = found[step]
    nll = _nll(batch["decoder_target_tokens"])
    loss = float(np.sum(np.asarray(weighting(batch)) * nll))

    sums = {1: 0.0, 2: 0.0}
    counts = {1: 0.0, 2: 0.0}
    for subtask, text, token_losses in _examples_of(batch):
      weight = 1.0
      if subtask == 2:
        seen.add(text)
        if options.rationale_weights == "as_given":
          weight = SHARES[text]
      sums[subtask] += weight * token_losses.sum()
      counts[subtask] += weight * len(token_losses)
    by_hand = 0.3 * sums[1] / counts[1] + 0.7 * sums[2] / counts[2]
    assert loss == pytest.approx(by_hand, rel=1e-6)
  assert seen == {text for text, share in SHARES.items() if share >= kept}
