"""What a checkpoint's files may claim, and what its folder may refer to."""

import os

import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.pretrained.files import bounds
from dss_jax.pretrained.files.bounds import Budget, MalformedError

FLOAT = np.dtype(np.float32)


def test_arrays_and_bytes_are_counted_before_they_are_taken(monkeypatch):
  budget = Budget(100)
  assert budget.take("a", [4, 5], FLOAT) == (4, 5)
  budget.take("b", (5,), FLOAT)
  with pytest.raises(MalformedError, match="exceed max_bytes"):
    budget.take("c", [1], np.dtype(np.bool_))
  monkeypatch.setattr(bounds, "MAX_ARRAYS", 2)
  budget = Budget(100)
  for name in "ab":
    budget.take(name, [0], FLOAT)
  with pytest.raises(MalformedError, match="more than 2 arrays"):
    budget.take("c", [0], FLOAT)


@pytest.mark.parametrize("chunk", [[2], [2, 0], [2, 1.5], [2, True], [2, -1]])
def test_chunks_have_a_size_in_each_dimension(chunk):
  with pytest.raises(MalformedError, match="has chunks"):
    Budget().take_chunk("a", chunk, (4, 4), FLOAT)


def test_a_chunk_may_reach_a_little_over_the_end():
  assert Budget().take_chunk("a", [8], (5,), FLOAT) == (8,)
  with pytest.raises(MalformedError, match="larger than itself"):
    Budget().take_chunk("a", [2**25], (5,), FLOAT)


@pytest.mark.parametrize(
  "shape", [None, "12", 3, [-1], [True], [1.0], [2**63], [1] * 17, {"0": 1}]
)
def test_shapes_that_are_none(shape):
  with pytest.raises(MalformedError, match="a has shape"):
    bounds.checked_shape(shape, "a")


@pytest.mark.parametrize("dtype", [None, "object", "V4", ["float32"], "str"])
def test_types_that_are_no_numbers(dtype):
  with pytest.raises(MalformedError, match="a has dtype"):
    bounds.checked_dtype(dtype, "a")


@pytest.mark.parametrize(
  "error", [KeyError("x"), RecursionError(), MemoryError(), OSError("a\n\x1bb")]
)
def test_whatever_a_parser_raises_becomes_one_printable_line(tmp_path, error):
  with (
    pytest.raises(UserError, match=r"the file '.*' cannot be read") as raised,
    bounds.reading(tmp_path, "file"),
  ):
    raise error
  assert str(raised.value).isprintable()


def test_a_large_file_is_not_read(tmp_path):
  path = tmp_path / "index.json"
  with path.open("wb") as file:
    file.truncate(2**40)  # sparse
  with pytest.raises(UserError, match="has 1099511627776 bytes"):
    bounds.read_json(path)


def test_links_within_a_folder_are_its_own(tmp_path):
  folder = tmp_path / "x"
  (folder / "a").mkdir(parents=True)
  (folder / "a" / "b").write_bytes(b"123")
  (folder / "link").symlink_to(folder / "a" / "b")
  assert bounds.files_within(folder) == {"a/b": 3, "link": 3}
  os.mkfifo(folder / "pipe")
  assert "pipe" not in bounds.files_within(folder)
  (folder / "out").symlink_to(tmp_path)
  with pytest.raises(MalformedError, match="leads out of it"):
    bounds.files_within(folder)
