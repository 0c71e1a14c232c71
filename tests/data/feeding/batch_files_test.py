"""Batches through files are the batches themselves."""

import dataclasses
import json

import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.data.feeding.batch_files import BatchFiles, write_batches
from dss_jax.data.feeding.batches import PackedBatches
from dss_jax.data.packing.packing_plans import BatchShape

SHAPE = BatchShape(8, 56, 28, 13)
SIZES = dataclasses.asdict(SHAPE)


@pytest.fixture
def batches(make_example_set):
  return PackedBatches(make_example_set(), SHAPE, seed=0)


@pytest.fixture
def folder(tmp_path, batches):
  # Three steps to a shard of 8 * 56 * 4 bytes a step.
  write_batches(
    tmp_path / "files", batches, range(5, 12), shard_bytes=8 * 56 * 4 * 3
  )
  return tmp_path / "files"


def test_round_trip(folder, batches):
  files = BatchFiles(
    folder, fingerprint="toy-300-0", vocabulary="toy", shape=SHAPE
  )
  assert len(files) == 7
  assert files.steps == range(5, 12)
  assert files.shape == SHAPE
  assert files.feature_specs == batches.feature_specs
  assert files.subtask_names == ("label", "rationale")
  for step in (11, 5, 8, 7):
    found, expected = files[step], batches[step]
    assert found.keys() == expected.keys()
    for name in expected:
      np.testing.assert_array_equal(found[name], expected[name])
      assert found[name].dtype == expected[name].dtype
  shards = sorted(p.name for p in folder.glob("decoder_positions.*"))
  assert shards == [f"decoder_positions.0000{i}.npy" for i in range(3)]
  assert [p.name for p in folder.parent.iterdir()] == ["files"]


def test_a_hosts_rows(folder, batches):
  for rows in (slice(2, 5), np.array([0, 2, 3])):
    files = BatchFiles(folder, host_rows=rows)
    for name, array in batches[6].items():
      np.testing.assert_array_equal(files[6][name], array[rows])


def test_batches_can_be_changed(folder):
  files = BatchFiles(folder)
  files[5]["decoder_loss_weights"][:] = 7
  assert not (files[5]["decoder_loss_weights"] == 7).any()


@pytest.mark.parametrize("step", [4, 12, -1])
def test_other_steps(folder, step):
  with pytest.raises(UserError, match=f"steps 5 to 11, not of step {step}"):
    BatchFiles(folder)[step]


@pytest.mark.parametrize(
  ("expected", "match"),
  [
    ({"fingerprint": "f2"}, "fingerprint 'toy-300-0', expected 'f2'"),
    ({"vocabulary": "bytes"}, "vocabulary 'toy', expected 'bytes'"),
    (
      {"shape": BatchShape(8, 56, 32, 13)},
      r"decoder_length=28.*expected.*decoder_length=32",
    ),
  ],
)
def test_files_of_something_else(folder, expected, match):
  with pytest.raises(UserError, match=match):
    BatchFiles(folder, **expected)


def test_missing(tmp_path, make_example_set):
  with pytest.raises(UserError, match=r"no dss_jax\.batches there"):
    BatchFiles(tmp_path / "nowhere")
  make_example_set().save(tmp_path / "tokens")
  with pytest.raises(UserError, match=r"holds 'dss_jax\.token_arrays'"):
    BatchFiles(tmp_path / "tokens")


def _edit(folder, **changes):
  path = folder / "header.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
  "changes",
  [
    {"shape": {"rows": 8}},
    {"shape": None},
    {"num_steps": 8, "shard_steps": 1},
    {"num_steps": 0},
    {"first_step": -1},
    {"shard_steps": "many"},
    {"subtasks": None},
    {"arrays": {}},
    {"num_steps": 10**12, "shard_steps": 1},
    {"num_steps": 10**30, "shard_steps": 10**30},
    *({"shape": SIZES | {name: 10**20}} for name in SIZES if name != "pack"),
    {"first_step": 10**30},
    {"first_step": float("inf")},
    {"shape": [1]},
  ],
)
def test_a_damaged_header(folder, changes):
  _edit(folder, **changes)
  with pytest.raises(UserError, match="is damaged"):
    BatchFiles(folder)


def test_a_truncated_shard_is_refused_at_once(folder):
  path = folder / "decoder_positions.00001.npy"
  path.write_bytes(path.read_bytes()[:-300])
  with pytest.raises(UserError, match=r"damaged \(decoder_positions\.00001"):
    BatchFiles(folder)


def test_an_altered_shard_is_refused_when_used(folder):
  path = folder / "decoder_positions.00001.npy"
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(bytes(data))
  files = BatchFiles(folder)
  files[5]
  with pytest.raises(UserError, match="CRC-32"):
    files[8]


def test_a_shard_that_begins_otherwise(folder):
  path = folder / "decoder_positions.00001.npy"
  data = path.read_bytes()
  path.write_bytes(data[:10] + b"(" * 60 + data[70:])
  with pytest.raises(UserError, match=r"damaged \(decoder_positions\.00001"):
    BatchFiles(folder)[8]


def test_shards_of_other_shapes(folder):
  other = dict(
    rows=8,
    encoder_length=56,
    decoder_length=30,
    records_per_batch=13,
    pack=True,
  )
  _edit(folder, shape=other)
  with pytest.raises(UserError, match=r"damaged .*expected"):
    BatchFiles(folder)[5]


def test_only_whole_batches_of_consecutive_steps(tmp_path, make_example_set):
  example_set = make_example_set()
  part = PackedBatches(example_set, SHAPE, seed=0, host_rows=slice(0, 4))
  with pytest.raises(ValueError, match="write whole batches"):
    write_batches(tmp_path / "files", part, range(3))
  whole = PackedBatches(example_set, SHAPE, seed=0)
  with pytest.raises(ValueError, match="consecutive steps"):
    write_batches(tmp_path / "files", whole, range(0, 10, 2))
  assert list(tmp_path.iterdir()) == []
