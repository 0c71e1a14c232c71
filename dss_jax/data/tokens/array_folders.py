"""A folder of plain arrays with a JSON header: how data lies on disk.

    folder/
      header.json        {"format": ..., "version": ..., "arrays": {...}, ...}
      <name>.npy         plain numpy files, never pickled, memory-mapped

Token arrays and batch files both use it. A folder is written next to its
place and renamed into it, so what exists is whole; a process killed while writing
leaves at most a hidden `.<name>.tmp-*` folder. The header holds each
array's dtype, shape and CRC-32: a truncated or altered file raises an error
instead of being trained on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dss_jax.base import plain_files, strict_json
from dss_jax.base.errors import UserError, one_line, writing

HEADER = "header.json"
_MAX_HEADER_BYTES = 64 << 20
_MAX_NPY_HEADER_BYTES = 1 << 16
_CHUNK_BYTES = 16 << 20
_DTYPES = ("int32", "int64", "float32")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")


@dataclasses.dataclass(frozen=True)
class ArrayFolder:
  """An opened folder. Arrays are opened one by one, when they are read.

  Attributes:
    path: where it lies.
    header: the checked header: the writer's own entries and "arrays".
  """

  path: pathlib.Path
  header: Mapping[str, Any]

  def read(self, name: str, *, verify: bool = True) -> np.ndarray:
    """One array, mapped read-only.

    Args:
      name: the array's name.
      verify: compare the CRC-32, which reads every byte once (about a second
        per gigabyte). Without it, dtype and shape are still checked.

    Raises:
      UserError: there is no such array, or its file is damaged.
    """
    try:
      entry = self.header["arrays"][name]
      array = _read_array(self.path / f"{name}.npy", entry)
      if verify and _crc32(array) != entry["crc32"]:
        raise ValueError("its CRC-32 differs from the header's")
    except Exception as error:  # no parser documents all that it raises
      raise damaged(self.path, f"{name}.npy: {error}") from error
    return array


class Writer:
  """Writes the arrays and the header of one folder (see `create`)."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._entries: dict[str, dict[str, Any]] = {}

  def add(self, name: str, array: np.ndarray) -> None:
    """Writes `array` as `<name>.npy` and flushes it to the disk."""
    array = np.ascontiguousarray(array)
    if not _NAME.fullmatch(name) or name in self._entries:
      raise ValueError(f"not a new plain array name: {name!r}")
    if array.dtype.name not in _DTYPES:
      raise ValueError(f"{name}: dtype {array.dtype}; allowed: {_DTYPES}")
    with open(self._folder / f"{name}.npy", "wb") as file:
      np.save(file, array, allow_pickle=False)
      file.flush()
      os.fsync(file.fileno())
    self._entries[name] = {
      "dtype": array.dtype.name,
      "shape": list(array.shape),
      "crc32": _crc32(array),
    }

  def finish(self, header: Mapping[str, Any]) -> None:
    """Writes the header: the last thing, so a folder with one is whole."""
    text = json.dumps({**header, "arrays": self._entries}, indent=1)
    with open(self._folder / HEADER, "w", encoding="utf-8") as file:
      file.write(text + "\n")
      file.flush()
      os.fsync(file.fileno())


@contextlib.contextmanager
def create(folder: str | os.PathLike[str]) -> Iterator[Writer]:
  """Yields a `Writer`; the folder appears, whole, when the block ends well.

  An existing folder of that name is replaced; readers that have it mapped keep
  the old arrays.
  """
  folder = pathlib.Path(folder)
  with writing(folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(
      tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent)
    )
    try:
      yield Writer(temporary)
      if not (temporary / HEADER).exists():
        raise ValueError("Writer.finish was not called")
      temporary.chmod(0o755)  # mkdtemp's 0700 would lock out other users
      _replace(temporary, folder)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  """Renames `temporary` to `folder`, moving an older one out of the way."""
  while True:
    try:
      os.rename(temporary, folder)
      return
    except OSError as error:
      if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
        raise
    if not folder.is_dir():
      raise UserError(f"{folder} is a file; a folder is to be written there")
    old = tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent)
    with contextlib.suppress(FileNotFoundError):  # another writer was faster
      os.rename(folder, os.path.join(old, "old"))
    shutil.rmtree(old, ignore_errors=True)


def open_folder(
  folder: str | os.PathLike[str], *, format: str, version: int
) -> ArrayFolder:
  """Opens a folder that `create` wrote: checks its header and file sizes.

  Args:
    folder: where it lies.
    format: the kind of content the caller expects.
    version: the version of that format the caller reads.

  Raises:
    UserError: the folder is absent, of another format or version, or damaged.
  """
  folder = pathlib.Path(folder)
  header = _read_header(folder, format=format, version=version)
  entries = header.get("arrays")
  if not isinstance(entries, dict):
    raise damaged(folder, f"{HEADER} lists no arrays")
  for name, entry in entries.items():
    if not _NAME.fullmatch(name):
      raise damaged(folder, f"{name!r} is not a plain array name")
    try:
      size = math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
      found = (folder / f"{name}.npy").stat().st_size
      if not size < found <= size + _MAX_NPY_HEADER_BYTES:
        raise ValueError(f"{found} bytes, but the header says {size} of data")
    except Exception as error:  # no parser documents all that it raises
      raise damaged(folder, f"{name}.npy: {error}") from error
  return ArrayFolder(folder, header)


def _read_header(
  folder: pathlib.Path, *, format: str, version: int
) -> dict[str, Any]:
  """The checked header, or UserError."""
  path = folder / HEADER
  if not path.is_file():
    raise UserError(f"{folder}: no {format} there ({HEADER} is missing)")
  try:
    header = strict_json.loads(plain_files.read_text(path, _MAX_HEADER_BYTES))
  except Exception as error:
    raise damaged(folder, f"{HEADER}: {error}") from error
  if not isinstance(header, dict):
    raise damaged(folder, f"{HEADER} is not a JSON object")
  found = (header.get("format"), header.get("version"))
  if found != (format, version):
    held = one_line(f"{found[0]!r} version {found[1]!r}", longest=80)
    raise UserError(
      f"{folder} holds {held}; this reads"
      f" {format!r} version {version}: delete the folder and write it again"
    )
  return header


def _read_array(path: pathlib.Path, entry: Mapping[str, Any]) -> np.ndarray:
  """The array; raises whatever parsers make of damaged bytes."""
  if entry["dtype"] not in _DTYPES:
    raise ValueError(f"dtype {entry['dtype']!r}; allowed: {_DTYPES}")
  plain_files.check(path)
  # An empty array cannot be mapped.
  mode = "r" if 0 not in entry["shape"] else None
  array = np.load(path, mmap_mode=mode, allow_pickle=False)
  found = (array.dtype.name, list(array.shape))
  if found != (entry["dtype"], entry["shape"]):
    raise ValueError(
      f"{found[0]} {found[1]}, but the header says"
      f" {entry['dtype']} {entry['shape']}"
    )
  return array


def _crc32(array: np.ndarray) -> int:
  """CRC-32 of an array's bytes."""
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
  value = 0
  for start in range(0, len(data), _CHUNK_BYTES):
    value = zlib.crc32(data[start : start + _CHUNK_BYTES], value)
  return value


def damaged(folder: str | os.PathLike[str], reason: object) -> UserError:
  """The error to raise for a folder that cannot be trusted."""
  line = one_line(reason, longest=300)
  return UserError(
    f"{folder} is damaged ({line}): delete the folder and write it again"
  )
