"""Cutting training sets: laws of both policies, and the library itself."""

import collections
import itertools

import numpy as np
import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, load_split, splits

IDS = [f"train-{i}" for i in range(800)]
FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)


def test_fixed_sizes():
  train, validation = splits.fixed_split(IDS)
  assert (len(train), len(validation)) == (720, 80)
  assert len(splits.fixed_split(IDS, fraction=0.125)[0]) == 90
  train, validation = splits.fixed_split([str(i) for i in range(9741)])
  assert (len(train), len(validation)) == (8766, 975)  # as in the paper


def test_fixed_fractions_are_nested_and_share_their_validation():
  parts = [splits.fixed_split(IDS, fraction=f, seed=3) for f in FRACTIONS]
  for (small, cut), (large, other_cut) in itertools.pairwise(parts):
    assert set(small) < set(large)
    assert cut == other_cut
  train, validation = parts[-1]
  assert sorted(train + validation) == list(range(800))


def test_fixed_splits_depend_on_the_ids_and_the_seed_only():
  train, _ = splits.fixed_split(IDS, fraction=0.5)
  reverse, _ = splits.fixed_split(IDS[::-1], fraction=0.5)
  assert {IDS[i] for i in train} == {IDS[::-1][i] for i in reverse}
  assert train != splits.fixed_split(IDS, fraction=0.5, seed=1)[0]
  assert train == sorted(train)
  # Frozen: another Python or NumPy must not give another split.
  assert splits.fixed_split(IDS[:20], fraction=0.25) == (
    [0, 3, 7, 14, 18],
    [5, 10],
  )


def test_fixed_without_a_cut():
  train, validation = splits.fixed_split(IDS, cut_validation=False)
  assert (train, validation) == (list(range(800)), [])


def test_official_order_is_fraction_first():
  train, validation = splits.official_split(9741, fraction=0.125, seed=0)
  # "12.5 %" trains on 11.25 %: 9741 - ceil(8523.375) = 1217, and 10 % of those go.
  assert (len(train), len(validation)) == (1217 - 122, 122)
  full_train, full_validation = splits.official_split(9741)
  assert (len(full_train), len(full_validation)) == (8766, 975)
  assert set(validation) - set(full_validation)  # not the same data any more
  assert not set(train) & set(validation)


def test_official_seeds_the_fraction_and_not_the_cut():
  assert splits.official_split(100, seed=1) == splits.official_split(100)
  assert splits.official_split(100, fraction=0.5, seed=1) != (
    splits.official_split(100, fraction=0.5, seed=2)
  )


@pytest.mark.parametrize(
  "cut",
  [
    lambda: splits.fixed_split(["a"]),
    lambda: splits.official_split(1),
    lambda: splits.official_split(3, fraction=0.01),
  ],
)
def test_too_few_records(cut):
  with pytest.raises(UserError, match="too few"):
    cut()


def test_counts_round_and_never_reach_zero():
  assert splits.fraction_count(720, 0.125) == 90
  assert splits.fraction_count(10, 0.25) == 3
  assert splits.fraction_count(10, 0.001) == 1
  assert splits.fraction_count(10, 1.0) == 10


@pytest.mark.hf
@pytest.mark.parametrize("num_records", [20, 37, 800, 9741])
@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.125])
def test_the_same_rows_as_the_library(num_records, fraction):
  """The official recipe, run with Hugging Face `datasets` itself."""
  library = pytest.importorskip("datasets")
  for seed in (0, 7):
    train = library.Dataset.from_dict({"row": range(num_records)})
    if fraction < 1.0:
      train = train.train_test_split(test_size=1.0 - fraction, seed=seed)[
        "train"
      ]
    parts = train.train_test_split(test_size=0.1, seed=0)
    ours = splits.official_split(num_records, fraction=fraction, seed=seed)
    assert ours == (list(parts["train"]["row"]), list(parts["test"]["row"]))


# --- through load_split ------------------------------------------------------


@pytest.fixture
def svamp(fixtures):
  def load(split, **fields):
    data = DataOptions(data_dir=str(fixtures / "release"), **fields)
    return [r.id for r in load_split("svamp", split, options=data)]

  return load


def test_policies_through_load_split(svamp):
  train, validation, test = map(svamp, ("train", "validation", "test"))
  assert len(train) + len(validation) == 14
  assert len(validation) == 2
  assert not set(train) & set(validation)
  assert test == [f"test-{i}" for i in range(6)]
  assert set(svamp("train", train_fraction=0.5)) < set(train)
  assert svamp("validation", train_fraction=0.5) == validation
  official = svamp("train", split_policy="official")
  positions, _ = splits.official_split(14)
  assert official == [f"train-{i}" for i in positions]
  assert svamp("train", max_records=3) == train[:3]


def test_sources_with_validation_data_are_not_cut(fixtures):
  data = DataOptions(data_dir=str(fixtures / "release"))
  train = load_split("anli1", "train", options=data)
  validation = load_split("anli1", "validation", options=data)
  assert len(train) == 12
  assert [record.id for record in validation][:1] == ["validation-0"]
  half = DataOptions(data_dir=str(fixtures / "release"), train_fraction=0.5,
                     split_policy="official")  # fmt: skip
  assert len(load_split("anli1", "train", options=half)) == 6
  assert len(load_split("anli1", "validation", options=half)) == 6


@pytest.mark.shared
@pytest.mark.parametrize("policy", ["fixed", "official"])
def test_sizes_of_the_released_sets(shared_data, policy):
  """The paper's table 3."""
  data = DataOptions(
    data_dir=str(shared_data / "dss_release"), split_policy=policy
  )
  sizes = collections.defaultdict(list)
  for name in ("svamp", "cqa"):
    for split in datasets.SPLITS:
      sizes[name].append(len(load_split(name, split, options=data)))
  assert sizes == {"svamp": [720, 80, 200], "cqa": [8766, 975, 1221]}


def test_the_permutation_is_numpys():
  """The stream the official code drew from; NumPy may not change it unseen."""
  assert np.random.default_rng(0).permutation(10).tolist() == [
    4, 6, 2, 7, 3, 5, 9, 0, 8, 1,
  ]  # fmt: skip


def test_held_out_inputs_are_about_the_shares_and_stay_where_they_are():
  inputs = [f"input {i}" for i in range(2000)]
  found = splits.held_out(inputs, {"validation": 0.1, "test": 0.2})
  assert list(found) == ["train", "validation", "test"]
  assert sorted(i for part in found.values() for i in part) == list(range(2000))
  # Binomial: four standard deviations are 54 and 72.
  assert abs(len(found["validation"]) - 200) < 54
  assert abs(len(found["test"]) - 400) < 72
  half = splits.held_out(inputs[:1000], {"validation": 0.1, "test": 0.2})
  for split, positions in half.items():
    assert positions == [i for i in found[split] if i < 1000]
  other = splits.held_out(inputs, {"validation": 0.1, "test": 0.2}, seed=1)
  assert other != found
  # Frozen: another Python or NumPy must not give another split.
  assert found["validation"][:5] == [15, 20, 29, 32, 35]


def test_equal_inputs_are_held_out_together():
  inputs = [f"a {i % 50}  b" if i % 2 else f"a {i % 50} b" for i in range(400)]
  found = splits.held_out(inputs, {"test": 0.3})
  texts = [{i % 50 for i in part} for part in found.values()]
  assert not texts[0] & texts[1]


@pytest.mark.parametrize(
  ("inputs", "shares", "message"),
  [
    (["a", "b"], {"test": 0.999999}, "train"),
    (["a"], {"test": 0.000001}, "nothing would be left for test"),
    (["a", "b"], {"validation": 0.5, "test": 0.5}, "below 1"),
    (["a", "b"], {"test": -0.1}, "above 0"),
  ],
)
def test_too_much_or_nothing_is_not_held_out(inputs, shares, message):
  with pytest.raises(UserError, match=message):
    splits.held_out(inputs, shares)
