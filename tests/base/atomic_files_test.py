"""Files are there whole or not at all, and disks that refuse are named."""

import contextlib
import errno

import pytest

from dss_jax.base import atomic_files, errors
from dss_jax.base.errors import StorageError


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with atomic_files.atomic_path(path) as temporary:
    temporary.write_text("new")
    assert path.read_text() == "old"
  assert path.read_text() == "new"
  with (
    contextlib.suppress(RuntimeError),
    atomic_files.atomic_path(path) as temporary,
  ):
    temporary.write_text("half")
    raise RuntimeError
  assert path.read_text() == "new"
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ("number", "remedy"),
  [
    (errno.ENOSPC, "make room"),
    (errno.EDQUOT, "make room"),
    (errno.EFBIG, "make room"),
    (errno.EACCES, "give another path"),
    (errno.EROFS, "give another path"),
  ],
)
def test_a_refusal_says_where_and_what_helps(number, remedy):
  with pytest.raises(StorageError) as error, errors.writing("runs/a"):
    raise OSError(number, "refused")
  assert str(error.value) == (
    f"cannot write runs/a (refused): {remedy}"
    + ("" if remedy == "make room" else ", or mend the cause")
    + ", and start again"
  )
  assert error.value.errno == number


def test_a_disk_that_fills_while_a_file_is_written_is_named(tmp_path):
  path = tmp_path / "a.txt"
  with (
    pytest.raises(StorageError, match=r"a\.txt \(no room\): make room"),
    atomic_files.atomic_path(path),
  ):
    raise OSError(errno.ENOSPC, "no room")
  # Other errors are not the disk's.
  with pytest.raises(ConnectionError), atomic_files.atomic_path(path):
    raise ConnectionError(errno.ECONNRESET, "reset")
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_found(tmp_path):
  atomic_files.make_folder(tmp_path / "a" / "b")
  assert list((tmp_path / "a" / "b").iterdir()) == []
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="Not a directory"):
    atomic_files.make_folder(tmp_path / "file" / "a")
