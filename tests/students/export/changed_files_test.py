"""An exported student is what was written, or is not opened."""

import os

import jax
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.pretrained import open_pretrained
from dss_jax.students.export import checked_export


@pytest.fixture(params=["huggingface", "t5x"])
def exported(request, make_student, tmp_path):
  """The folder, and files in it that its reader reads."""
  folder = tmp_path / "out"
  checked_export.export(
    make_student(vocabulary="taxonli"), str(folder), request.param, count=0
  )
  files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  read = "checkpoint_3" if request.param == "t5x" else ""
  chosen = [
    path
    for path in files
    if path.stat().st_size
    and path.name not in ("README.md", "checksums.json")
    and path.relative_to(folder).as_posix().startswith(read)
  ]
  return folder, chosen


def test_a_bit_in_any_file(exported):
  folder, files = exported
  assert len(files) > 5
  for path in files[:20]:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    whole = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"out.*: ") as error:
      open_pretrained(str(folder))
    assert "\n" not in str(error.value)
    path.write_bytes(whole)
  open_pretrained(str(folder))


def test_numbers_that_were_changed_are_named_with_the_way_out(exported):
  folder, files = exported
  path = max(files, key=lambda file: file.stat().st_size)
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(
    UserError,
    match=rf"{path.name} has other bytes.*export it again, or delete its"
    r" checksums\.json",
  ):
    open_pretrained(str(folder))


def test_the_card_may_be_edited_and_files_left_behind(exported, tmp_path):
  folder, _ = exported
  (folder / "README.md").write_text("Mine.")
  for name in ("generation_config.json", "spiece.model"):
    (folder / name).unlink(missing_ok=True)
  first = open_pretrained(str(folder))
  (folder / "checksums.json").unlink()
  second = open_pretrained(str(folder))
  jax.tree.map(
    np.testing.assert_array_equal,
    {name: array.whole() for name, array in first.arrays.items()},
    {name: array.whole() for name, array in second.arrays.items()},
  )


def test_a_pipe_is_not_opened(exported):
  folder, _ = exported
  (folder / "checksums.json").unlink()
  os.mkfifo(folder / "checksums.json")
  with pytest.raises(UserError, match="no plain file"):
    open_pretrained(str(folder))
