"""Files of text as UTF-8 lines: unpacked, recoded, each line bounded.

Whatever a program wrote, readers of formats see UTF-8 with line ends that they
know: files packed by gzip, bzip2 or zstd are unpacked while they are read;
UTF-16 and UTF-32 are recoded; a byte order mark is taken off; lines that end in
a lone carriage return, as on old Macs, end in a line feed.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from dss_jax.base.errors import UserError

# Bytes of one line. Well above any record the field bounds allow to be useful,
# far below what hurts.
MAX_LINE_BYTES = 16 << 20

# A packed file may hold so many bytes, and so many for each of its own. Text
# is packed to a tenth, seldom to a hundredth; what is beyond is made to hurt.
MAX_UNPACKED_BYTES = 1 << 30
MAX_UNPACKED_RATIO = 200

# How files begin that are no text, or not the file that is meant -> what to do.
_NO_TEXT = {
  b"\x1f\x8b": "is packed by gzip: let its name end in .gz",
  b"BZh": "is packed by bzip2: let its name end in .bz2",
  b"\x28\xb5\x2f\xfd": "is packed by zstd: let its name end in .zst",
  b"\xfd7zXZ": "is packed by xz: unpack it (xz -d)",
  b"PK\x03\x04": "is a ZIP archive or a spreadsheet: unpack it, or save it as"
  " .csv",
  b"PAR1": "is a Parquet file: let its name end in .parquet",
  b"version https://git-lfs": "is a pointer of Git LFS: fetch the file itself"
  " (git lfs pull)",
}

_BLOCK_BYTES = 1 << 16


def _open_zstd(path: str) -> Any:
  import pyarrow as pa

  return pa.CompressedInputStream(pa.OSFile(path), "zstd")


# Suffix -> what opens a packed file to be read. The suffix .xz is not there:
# an .xz file says itself how much memory it takes to unpack.
PACKED: Mapping[str, Callable[[str], Any]] = {
  ".gz": gzip.open,
  ".bz2": bz2.open,
  ".zst": _open_zstd,
}


def is_packed(path: str | os.PathLike[str]) -> bool:
  """Whether the file's suffix says that it is packed."""
  return pathlib.Path(path).suffix.lower() in PACKED


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
  """A file as UTF-8, unpacked if its suffix says that it is packed.

  Raises:
    UserError: in the block, for a packed file that is damaged or too large.
  """
  if not is_packed(path):
    with open(path, "rb") as file:
      yield as_utf8(file, path)
    return
  size = os.path.getsize(path)
  opener = PACKED[pathlib.Path(path).suffix.lower()]
  with opener(os.fspath(path)) as packed:
    bounded = _Bounded(packed, path, size * MAX_UNPACKED_RATIO)
    yield as_utf8(io.BufferedReader(bounded), path)


class _Bounded(io.RawIOBase):
  """What a packed file holds, unless that is too much."""

  def __init__(self, packed: Any, path: Any, allowed: int):
    self._packed = packed
    self._path = path
    self._left = self._allowed = MAX_UNPACKED_BYTES + allowed

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    try:
      # Not all that the buffer holds: it may be made for the largest file.
      block = self._packed.read(min(len(buffer), _BLOCK_BYTES))
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
      reason = str(error).splitlines()[0] if str(error) else "cut off"
      raise UserError(
        f"{self._path} cannot be unpacked: {reason}", fields="input"
      ) from None
    self._left -= len(block)
    if self._left < 0:
      raise UserError(
        f"{self._path} holds more than {self._allowed} bytes,"
        f" {MAX_UNPACKED_RATIO} times its size and more: unpack it yourself if"
        " it is what it should be",
        fields="input",
      )
    buffer[: len(block)] = block
    return len(block)


def as_utf8(
  file: io.BufferedReader, path: str | os.PathLike[str]
) -> io.BufferedReader:
  """The same text as UTF-8 without a byte order mark, in lines that end in \\n.

  A file that is UTF-8 already is returned itself. What comes first decides, as
  much of it as a pipe brings at once.

  Args:
    file: its bytes.
    path: names it in errors.

  Raises:
    UserError: if it is known to be no text.
  """
  head = file.peek(_BLOCK_BYTES)
  for start, remedy in _NO_TEXT.items():
    if head.startswith(start):
      raise UserError(f"{path} {remedy}", fields="input")
  encoding = json.detect_encoding(head)
  text = head.decode(encoding.replace("-sig", ""), errors="ignore")
  # A carriage return at the end may be half of a line end.
  is_old_mac = "\n" not in text and "\r" in text[:-1]
  if encoding == "utf-8-sig":
    file.read(len(codecs.BOM_UTF8))
  if encoding.startswith("utf-8") and not is_old_mac:
    return file
  return io.BufferedReader(_Recoded(file, encoding, is_old_mac))


class _Recoded(io.RawIOBase):
  """Text of another encoding, or with other line ends, as UTF-8."""

  def __init__(self, file: io.BufferedReader, encoding: str, is_old_mac: bool):
    self._file = file
    self._encoding = encoding
    self._decoder = None
    if not encoding.startswith("utf-8"):
      self._decoder = codecs.getincrementaldecoder(encoding)()
    self._is_old_mac = is_old_mac
    self._waiting = b""
    self._is_at_end = False

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    while not self._waiting and not self._is_at_end:
      block = self._file.read1(_BLOCK_BYTES)
      self._is_at_end = not block
      self._waiting = self._recode(block)
    block = self._waiting[: len(buffer)]
    self._waiting = self._waiting[len(block) :]
    buffer[: len(block)] = block
    return len(block)

  def _recode(self, block: bytes) -> bytes:
    if self._decoder is not None:
      try:
        block = self._decoder.decode(block, final=not block).encode("utf-8")
      except UnicodeError:
        raise UserError(
          f"not valid {self._encoding.upper()}, which its first bytes look like"
        ) from None
    return block.replace(b"\r", b"\n") if self._is_old_mac else block


def read_lines(
  file: BinaryIO, *, keep_ends: bool = False
) -> Iterator[tuple[int, str | UserError]]:
  """The lines of a file of UTF-8, numbered from 1.

  A line that is too long or not UTF-8 comes as the error that says so; memory
  stays bounded by MAX_LINE_BYTES whatever the file holds.

  Args:
    file: from `opened` or `as_utf8`.
    keep_ends: whether lines come with their line ends.
  """
  number = 0
  while line := file.readline(MAX_LINE_BYTES + 1):
    number += 1
    if len(line) > MAX_LINE_BYTES:
      size = len(line)
      while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE_BYTES)
        size += len(line)
      yield (
        number,
        UserError(
          f"line has {size} bytes, at most {MAX_LINE_BYTES} are allowed"
        ),
      )
      continue
    try:
      text = line.decode("utf-8")
    except UnicodeDecodeError as error:
      yield (
        number,
        UserError(
          f"not valid UTF-8 (byte {error.start}): save the file as UTF-8"
        ),
      )
      continue
    yield number, text if keep_ends else text.rstrip("\r\n")
