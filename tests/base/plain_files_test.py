"""What is no plain file is refused before it is opened."""

import os
import pathlib

import pytest

from dss_jax.base import plain_files


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """With a file, a link to it, and what readers would wait for or fill up on."""
  (tmp_path / "below").mkdir()
  (tmp_path / "below" / "file").write_text("é")
  (tmp_path / "link").symlink_to("below/file")
  return tmp_path


def test_files_and_links_to_them_are_read(folder):
  plain_files.check_folder(folder)
  assert plain_files.read_text(folder / "link", 2) == "é"
  assert plain_files.read(folder / "below" / "file") == "é".encode()


def test_a_file_that_is_too_large(folder):
  with pytest.raises(ValueError, match="link has 2 bytes, and at most 1 are"):
    plain_files.read(folder / "link", 1)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file(folder, kind):
  path = folder / "below" / "other"
  if kind == "pipe":
    os.mkfifo(path)
  elif kind == "device":
    path.symlink_to("/dev/zero")
  else:
    path.mkdir()
  with pytest.raises(ValueError, match="other is no plain file"):
    plain_files.read(path)
  if kind != "folder":
    with pytest.raises(ValueError, match="other is no plain file"):
      plain_files.check_folder(folder)


def test_what_is_not_there(folder):
  with pytest.raises(FileNotFoundError):
    plain_files.read(folder / "none")
