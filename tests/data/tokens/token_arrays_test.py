"""Token arrays in memory and on disk."""

import json
import pathlib

import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


def _set(fingerprint="f1") -> ExampleSet:
  label = TokenArrays.from_lists(
    "label", [[5, 6, 1], [7, 1]], [[9, 1], [8, 1]], [0, 1]
  )
  rationale = TokenArrays.from_lists(
    "rationale",
    [[5, 6, 1], [5, 6, 1], [7, 1]],
    [[4, 4, 1], [3, 1], [2, 2, 2, 1]],
    [0, 0, 1],
    [1.0, 0.5, 0.25],
  )
  return ExampleSet(
    subtasks=(label, rationale),
    rates=(1.0, 3.0),
    paired=False,
    num_records=2,
    fingerprint=fingerprint,
    vocabulary="bytes",
    task_name="toy_dss",
    split="train",
  )


def test_from_lists():
  rationale = _set().subtasks[1]
  assert len(rationale) == 3
  np.testing.assert_array_equal(rationale.inputs, [5, 6, 1, 5, 6, 1, 7, 1])
  np.testing.assert_array_equal(rationale.input_offsets, [0, 3, 6, 8])
  np.testing.assert_array_equal(rationale.target_lengths, [3, 2, 4])
  inputs, targets = rationale.example(2)
  np.testing.assert_array_equal(inputs, [7, 1])
  np.testing.assert_array_equal(targets, [2, 2, 2, 1])
  assert rationale.inputs.dtype == np.int32
  np.testing.assert_array_equal(rationale.weights, [1, 0.5, 0.25])


def test_default_record_ids_and_weights():
  arrays = TokenArrays.from_lists("t", [[1], [1]], [[1], [1]])
  np.testing.assert_array_equal(arrays.record_ids, [0, 1])
  np.testing.assert_array_equal(arrays.weights, [1, 1])


def test_no_examples(tmp_path):
  empty = TokenArrays.from_lists("t", [], [])
  assert len(empty) == 0
  example_set = ExampleSet((empty,), (1.0,), False, 0, "f", "v", "t", "test")
  example_set.save(tmp_path / "a")
  assert len(ExampleSet.load(tmp_path / "a").subtasks[0]) == 0
  assert example_set.statistics()["t"]["inputs"]["max"] == 0


def test_round_trip(tmp_path):
  saved = _set()
  saved.save(tmp_path / "deep" / "cache")
  loaded = ExampleSet.load(tmp_path / "deep" / "cache", fingerprint="f1")
  for field in [
    "rates",
    "paired",
    "num_records",
    "fingerprint",
    "vocabulary",
    "task_name",
    "split",
  ]:
    assert getattr(loaded, field) == getattr(saved, field), field
  for a, b in zip(saved.subtasks, loaded.subtasks, strict=True):
    assert a.name == b.name
    for field in [
      "inputs",
      "input_offsets",
      "targets",
      "target_offsets",
      "record_ids",
      "weights",
    ]:
      x, y = getattr(a, field), getattr(b, field)
      np.testing.assert_array_equal(x, y)
      assert x.dtype == y.dtype
  assert isinstance(loaded.subtasks[0].inputs, np.memmap)
  # Nothing but the folder is left behind.
  assert [p.name for p in (tmp_path / "deep").iterdir()] == ["cache"]


def test_saving_replaces_and_leaves_open_readers_alone(tmp_path):
  _set("old").save(tmp_path / "cache")
  reader = ExampleSet.load(tmp_path / "cache")
  _set("new").save(tmp_path / "cache")
  assert ExampleSet.load(tmp_path / "cache").fingerprint == "new"
  np.testing.assert_array_equal(reader.subtasks[0].inputs, [5, 6, 1, 7, 1])
  assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_a_failed_save_leaves_the_old_set(tmp_path, monkeypatch):
  _set("old").save(tmp_path / "cache")
  monkeypatch.setattr(np, "save", _raise_disk_full)
  with pytest.raises(OSError, match="disk full"):
    _set("new").save(tmp_path / "cache")
  assert ExampleSet.load(tmp_path / "cache").fingerprint == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def _raise_disk_full(*args, **kwargs):
  raise OSError("disk full")


def test_wrong_fingerprint_names_both(tmp_path):
  _set("f1").save(tmp_path / "cache")
  with pytest.raises(UserError, match=r"'f1'.*'f2'"):
    ExampleSet.load(tmp_path / "cache", fingerprint="f2")


def test_missing_folder(tmp_path):
  with pytest.raises(UserError, match=r"header\.json is missing"):
    ExampleSet.load(tmp_path / "nowhere")


def _edit_header(folder: pathlib.Path, **changes) -> None:
  path = folder / "header.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _truncate(folder):
  path = folder / "subtask_1.targets.npy"
  path.write_bytes(path.read_bytes()[:-4])


def _cut_to_nothing(folder):
  (folder / "subtask_0.inputs.npy").write_bytes(b"")


def _flip_a_token(folder):
  path = folder / "subtask_0.inputs.npy"
  data = bytearray(path.read_bytes())
  data[-4] ^= 1
  path.write_bytes(bytes(data))


def _remove_a_file(folder):
  (folder / "subtask_0.weights.npy").unlink()


def _garble_the_header(folder):
  (folder / "header.json").write_text('{"format": ')


def _pickled_array(folder):
  with open(folder / "subtask_0.inputs.npy", "wb") as file:
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)


def _path_in_a_name(folder):
  _edit_header(folder, arrays={"../outside": {}})


def _no_arrays(folder):
  _edit_header(folder, arrays=None)


def _no_rates(folder):
  _edit_header(folder, rates=None)


def _counts_of_another_kind(folder):
  _edit_header(folder, left_out=[1])


def _other_dtype(folder):
  np.save(folder / "subtask_0.inputs.npy", np.zeros(5, np.int64))


@pytest.mark.parametrize(
  "damage",
  [
    _truncate,
    _cut_to_nothing,
    _flip_a_token,
    _remove_a_file,
    _garble_the_header,
    _pickled_array,
    _path_in_a_name,
    _no_arrays,
    _no_rates,
    _counts_of_another_kind,
    _other_dtype,
  ],
)
def test_damage_is_one_clear_line(tmp_path, damage):
  _set().save(tmp_path / "cache")
  damage(tmp_path / "cache")
  with pytest.raises(UserError, match="is damaged") as raised:
    ExampleSet.load(tmp_path / "cache")
  assert "\n" not in str(raised.value)
  assert "cache" in str(raised.value)


def test_another_version_is_refused(tmp_path):
  _set().save(tmp_path / "cache")
  _edit_header(tmp_path / "cache", version=99)
  with pytest.raises(UserError, match="version 99"):
    ExampleSet.load(tmp_path / "cache")


def test_a_file_in_the_way(tmp_path):
  (tmp_path / "cache").write_text("mine")
  with pytest.raises(UserError, match="is a file"):
    _set().save(tmp_path / "cache")
  assert (tmp_path / "cache").read_text() == "mine"


def test_statistics():
  assert _set().statistics()["rationale"]["targets"] == {
    "n": 3,
    "total": 9,
    "mean": 3.0,
    "p50": 3.0,
    "p95": pytest.approx(3.9),
    "max": 4,
  }


def test_bad_arrays_are_refused():
  with pytest.raises(ValueError, match="no target tokens"):
    TokenArrays.from_lists("t", [[1], [1]], [[1], []])
  with pytest.raises(ValueError, match="2 inputs but 1 targets"):
    TokenArrays.from_lists("t", [[1], [1]], [[1]])
  with pytest.raises(ValueError, match="1 record ids but 2 weights"):
    TokenArrays.from_lists("t", [[1]], [[1]], [0], [1, 1])
  good = TokenArrays.from_lists("t", [[1]], [[1]], [4])
  with pytest.raises(ValueError, match="record ids 4 to 4 with 2 records"):
    ExampleSet((good,), (1.0,), False, 2, "f", "v", "t", "train")
  with pytest.raises(ValueError, match="rates"):
    ExampleSet((good,), (-1.0,), False, 5, "f", "v", "t", "train")
  with pytest.raises(ValueError, match="1 sub-tasks and 2 rates"):
    ExampleSet((good,), (1.0, 1.0), False, 5, "f", "v", "t", "train")
