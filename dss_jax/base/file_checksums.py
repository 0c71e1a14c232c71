"""Checksums of the files in a folder, which show that one was damaged.

Formats of arrays keep none for the numbers themselves: bytes that a disk
returns wrong would become other parameters without a word. CRC-32 is fast and
finds damage, and no attack.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import zlib

from dss_jax.base import plain_files, strict_json

FILE = "checksums.json"
_MAX_BYTES = 64 * 2**20
_BLOCK = 2**20
_THREADS = 4  # the checksums of large blocks are made without Python's lock


def write(folder: pathlib.Path, *, top: bool = False) -> None:
  """Writes the checksums of all files in the folders of a folder into it.

  Args:
    folder: of folders that do not change any more.
    top: whether to take the files in it itself, too.

  Raises:
    OSError: where a file cannot be read or written.
  """
  paths = [
    pathlib.Path(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
    if top or pathlib.Path(parent) != folder
  ]
  names = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
  names.pop(FILE, None)  # of an earlier time
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(_size_and_checksum, names.values())
    content = dict(zip(names, found, strict=True))
  text = json.dumps(content, indent=0)
  (folder / FILE).write_text(text, encoding="utf-8")


def check(
  folder: pathlib.Path,
  part: str = "",
  share: int = 0,
  shares: int = 1,
  *,
  missing: bool = False,
) -> None:
  """Compares files with what they were when their checksums were written.

  A folder without checksums passes.

  Args:
    folder: where `write` left them.
    part: the folder in it whose files are compared; "" for all files.
    share: which share of the files to read, where processes divide the work.
    shares: number of shares.
    missing: whether files may be missing.

  Raises:
    ValueError: for a file that is missing or has other bytes.
    OSError: for one that cannot be read.
  """
  listed = folder / FILE
  if not os.path.lexists(listed):
    return
  names = _listed(listed)
  start = f"{part}/" if part else ""
  chosen = [name for name in sorted(names) if name.startswith(start)]
  if not chosen:
    raise ValueError(f"{FILE} has no file of {part}")
  chosen = chosen[share::shares]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(_size_and_checksum, [folder / name for name in chosen])
    for name, is_now in zip(chosen, found, strict=True):
      if is_now is None and missing:
        continue
      if is_now is None:
        raise ValueError(f"{name} is missing")
      if list(is_now) != names[name]:
        raise ValueError(f"{name} has other bytes than were written")


def _listed(path: pathlib.Path) -> dict[str, list[int]]:
  content = plain_files.read(path, _MAX_BYTES)
  try:
    names = strict_json.loads(content.decode("utf-8"))
  except ValueError:
    names = None
  if not isinstance(names, dict) or any(
    pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts
    for name in names
  ):
    raise ValueError(f"{FILE} is no list of files")
  return names


def _size_and_checksum(path: pathlib.Path) -> tuple[int, int] | None:
  """None where there is no such file."""
  size = checksum = 0
  try:
    plain_files.check(path)
    with path.open("rb") as file:
      while block := file.read(_BLOCK):
        size += len(block)
        checksum = zlib.crc32(block, checksum)
  except FileNotFoundError:
    return None
  return size, checksum
