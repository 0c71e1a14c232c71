import pathlib

import pytest

from dss_jax.base import file_checksums


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  for name, content in {
    "state/d/array": b"\x00\x01" * 3_000_000,
    "state/empty": b"",
    "loop/é": b"{}",
    "other.txt": b"x",
  }.items():
    path = tmp_path / "saved" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  file_checksums.write(tmp_path / "saved")
  return tmp_path / "saved"


def _check(folder):
  for part in ("state", "loop"):
    file_checksums.check(folder, part)


def test_files_that_are_as_they_were_pass(folder):
  _check(folder)
  # What is no part of a folder, and what came later, is not looked at.
  (folder / "other.txt").write_text("y")
  (folder / "state" / "new").write_text("y")
  _check(folder)
  (folder / "checksums.json").unlink()
  (folder / "state" / "empty").write_text("x")
  _check(folder)


@pytest.mark.parametrize("name", ["state/d/array", "state/empty", "loop/é"])
@pytest.mark.parametrize("change", ["bit", "longer", "shorter", "missing"])
def test_any_change_is_found_and_named(folder, name, change):
  path = folder / name
  content = bytearray(path.read_bytes())
  if not content and change in ("bit", "shorter"):
    return
  if change == "bit":
    content[len(content) // 2] ^= 4
  path.write_bytes(content[:-1] if change == "shorter" else content)
  if change == "longer":
    path.write_bytes(content + b"\x00")
  if change == "missing":
    path.unlink()
  reason = "missing" if change == "missing" else "other bytes than were written"
  with pytest.raises(ValueError, match=f"^{name} .*{reason}"):
    _check(folder)


def test_processes_share_the_work(folder):
  (folder / "state" / "empty").write_text("x")
  file_checksums.check(folder, "state", 0, 2)  # d/array
  with pytest.raises(ValueError, match="state/empty"):
    file_checksums.check(folder, "state", 1, 2)


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"\xff", "no list of files"),
    (b"[" * 100_000, "no list of files"),
    (b"[]", "no list of files"),
    (b'{"state/../../x": [0, 0]}', "no list of files"),
    (b'{"/state/x": [0, 0]}', "no list of files"),
    (b"{}", "has no file of state"),
    (b'{"state/empty": null}', "state/empty has other bytes"),
  ],
)
def test_a_damaged_list_is_refused(folder, content, reason):
  (folder / "checksums.json").write_bytes(content)
  with pytest.raises(ValueError, match=reason):
    _check(folder)


def test_a_list_without_end_is_refused(folder, monkeypatch):
  monkeypatch.setattr(file_checksums, "_MAX_BYTES", 10)
  with pytest.raises(ValueError, match="at most 10 are read"):
    _check(folder)
