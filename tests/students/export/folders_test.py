"""An export is there as a whole, or not at all."""

import os
import subprocess
import sys

import pytest

from dss_jax.base.errors import StorageError, UserError
from dss_jax.pretrained import student_card
from dss_jax.students.export import folders


def _export(output, text="new", **options):
  with folders.new_folder(output, **options) as folder:
    (folder / student_card.FILE).write_text(text)
    (folder / "part").mkdir()
    (folder / "part" / "weights").write_text(text)


def _fail(output, error):
  with folders.new_folder(output, overwrite=True) as folder:
    (folder / "half").write_text("x")
    raise error


def test_it_appears_whole_and_leaves_nothing_next_to_it(tmp_path):
  _export(tmp_path / "a" / "out")
  assert [each.name for each in (tmp_path / "a").iterdir()] == ["out"]
  assert (tmp_path / "a" / "out" / "part" / "weights").read_text() == "new"
  (tmp_path / "empty").mkdir()
  _export(tmp_path / "empty")  # an empty folder may be there already
  assert (tmp_path / "empty" / student_card.FILE).exists()


def test_a_failure_leaves_what_was_there(tmp_path):
  output = tmp_path / "out"
  with pytest.raises(ZeroDivisionError):
    _fail(output, ZeroDivisionError())
  assert list(tmp_path.iterdir()) == []
  _export(output, "old")
  with pytest.raises(KeyboardInterrupt):
    _fail(output, KeyboardInterrupt())
  assert (output / student_card.FILE).read_text() == "old"
  assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_an_earlier_export_is_replaced_only_when_asked(tmp_path):
  output = tmp_path / "out"
  _export(output, "old")
  with pytest.raises(UserError, match="set overwrite"):
    _export(output)
  _export(output, overwrite=True)
  assert (output / student_card.FILE).read_text() == "new"
  assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_what_no_export_wrote_is_never_removed(tmp_path):
  output = tmp_path / "out"
  output.mkdir()
  (output / "thesis.tex").write_text("x")
  with pytest.raises(UserError, match="no export wrote"):
    _export(output, overwrite=True)
  file = tmp_path / "file"
  file.write_text("x")
  link = tmp_path / "link"
  link.symlink_to(output)
  with pytest.raises(UserError, match="no export wrote"):
    _export("/", overwrite=True)
  for path in (file, link):
    with pytest.raises(UserError, match="not a folder"):
      _export(path, overwrite=True)
  for path in ("", "a\0b"):
    with pytest.raises(UserError, match="give the path of a folder"):
      _export(path)
  assert (output / "thesis.tex").exists()


def test_a_killed_export_is_no_obstacle_and_a_running_one_is(tmp_path):
  output = tmp_path / "out"
  program = (
    "import os, sys; from dss_jax.students.export import folders\n"
    f"with folders.new_folder({str(output)!r}) as folder:\n"
    "  (folder / 'half').write_text('x'); os._exit(9)\n"
  )
  assert subprocess.run([sys.executable, "-c", program]).returncode == 9
  assert not output.exists()
  assert (tmp_path / ".out.exporting" / "half").exists()
  with folders.new_folder(output) as folder:
    assert not (folder / "half").exists()
    with pytest.raises(UserError, match="another process"):
      _export(output)
  assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_reported_in_one_line(tmp_path):
  with pytest.raises(StorageError, match="cannot write") as caught:
    _export(tmp_path / ("x" * 250))  # too long with what is added meanwhile
  assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_is_refused_beforehand(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("x")
  for path in ("file/out", "file/a/out"):
    with pytest.raises(UserError, match="is not a writable folder"):
      folders.check_free(tmp_path / path, overwrite=False)
  (tmp_path / "empty").mkdir()
  monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
  for path in ("new", "a/new", "empty"):
    with pytest.raises(UserError, match="is not a writable folder"):
      folders.check_free(tmp_path / path, overwrite=False)


def test_a_folder_that_others_filled_meanwhile_is_left_alone(tmp_path):
  output = tmp_path / "out"

  def export():
    with folders.new_folder(output) as folder:
      (folder / student_card.FILE).write_text("new")
      output.mkdir()
      (output / "theirs").write_text("x")

  with pytest.raises(UserError, match="no export wrote"):
    export()
  assert os.listdir(output) == ["theirs"]


def test_a_home_of_nobody_is_a_name_like_others(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  found = folders.check_free("~no-one/out", overwrite=False)
  assert found == tmp_path / "~no-one" / "out"
