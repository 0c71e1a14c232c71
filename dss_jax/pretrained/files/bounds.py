"""What a checkpoint's files may claim and refer to.

A checkpoint is untrusted. Every reader of this folder checks what a header
declares against these bounds before it takes memory or follows a name, and
raises `MalformedError` for what is beyond them.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from dss_jax.base import plain_files, strict_json
from dss_jax.base.errors import UserError, one_line, printable

# A T5 of 11 B parameters in float32 with its Adafactor state is under 64 GiB
# and has under 5,000 arrays.
MAX_BYTES = 256 * 2**30
MAX_ARRAYS = 100_000
MAX_DIMENSIONS = 16
# Bytes of a list of arrays: the header of safetensors, or an index of shards.
MAX_HEADER_BYTES = 32 * 2**20
MAX_CONFIG_BYTES = 2**20  # of a JSON file that describes one thing
# A msgpack file is a tree: maps in maps, and values in all of them.
MAX_TREE_DEPTH = 64
MAX_TREE_NODES = 500_000
# The chunks of a small array may reach over its end, within reason.
_MAX_SPARE_BYTES = 64 * 2**20

# As long as a file's name may be; it has no separator and is not hidden.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,250}")

# Nothing but numbers is read: these types have no pointers and no fields.
DTYPES = {
  dtype.name: dtype
  for dtype in map(
    np.dtype,
    (
      np.float64,
      np.float32,
      np.float16,
      ml_dtypes.bfloat16,
      np.int64,
      np.int32,
      np.int16,
      np.int8,
      np.uint32,
      np.uint8,
      np.bool_,
    ),
  )
}


class MalformedError(ValueError):
  """A file is not what its format allows; the message says why."""


# What parameters, and an optimizer's state of them, are made of.
FLOATS = ("float64", "float32", "float16", "bfloat16")


@contextlib.contextmanager
def reading(path: pathlib.Path, kind: str) -> Iterator[None]:
  """Turns whatever parsers raise on hostile bytes into one line.

  Args:
    path: the file or folder.
    kind: what it should be, for the message.

  Raises:
    UserError: in place of any other exception.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # no parser documents all that it raises
    reason = printable(one_line(error) or type(error).__name__)
    raise UserError(
      f"the {kind} {str(path)!r} cannot be read: {reason}; give a complete one",
      fields="TrainConfig.initial_checkpoint_path",
    ) from error


class Budget:
  """Counts the arrays of a checkpoint, and the bytes that they declare."""

  def __init__(self, max_bytes: int = MAX_BYTES):
    self._bytes = max_bytes
    self._arrays = MAX_ARRAYS

  def take(self, name: str, shape: Any, dtype: np.dtype) -> tuple[int, ...]:
    """Counts an array, before anything of it is read; returns its shape."""
    shape = checked_shape(shape, name)
    self._arrays -= 1
    self._bytes -= math.prod(shape) * dtype.itemsize
    if self._arrays < 0:
      raise MalformedError(f"it has more than {MAX_ARRAYS} arrays")
    if self._bytes < 0:
      raise MalformedError(
        "its arrays exceed max_bytes, the most that a model could take"
      )
    return shape

  def take_chunk(
    self, name: str, chunk: Any, shape: tuple[int, ...], dtype: np.dtype
  ) -> tuple[int, ...]:
    """Counts a chunk, which is read whole even where the array ends inside."""
    if len(chunk) != len(shape) or not all(
      type(n) is int and n > 0 for n in chunk
    ):
      raise MalformedError(f"{name} has chunks {one_line(chunk, longest=60)}")
    self.take(name, chunk, dtype)
    spare = math.prod(chunk) - math.prod(shape)
    if spare * dtype.itemsize > _MAX_SPARE_BYTES:
      raise MalformedError(f"{name} has chunks larger than itself")
    return tuple(chunk)


def checked_shape(shape: Any, name: str) -> tuple[int, ...]:
  """The shape of an array, which a file may declare as anything."""
  if (
    not isinstance(shape, list | tuple)
    or len(shape) > MAX_DIMENSIONS
    or not all(type(n) is int and 0 <= n < 2**63 for n in shape)
  ):
    raise MalformedError(f"{name} has shape {one_line(shape, longest=60)}")
  return tuple(shape)


def checked_dtype(dtype: Any, name: str) -> np.dtype:
  """The type of that name; anything but plain numbers is refused."""
  if not isinstance(dtype, str) or dtype not in DTYPES:
    raise MalformedError(
      f"{name} has dtype {one_line(repr(dtype), longest=60)}"
    )
  return DTYPES[dtype]


def parse_json(data: bytes) -> dict[str, Any]:
  """The JSON object in some bytes."""
  try:
    value = strict_json.loads(data.decode("utf-8"))
  except ValueError as error:
    raise MalformedError(one_line(error)) from error
  if not isinstance(value, dict):
    raise MalformedError("not a JSON object")
  return value


def read_json(
  path: pathlib.Path, max_bytes: int = MAX_CONFIG_BYTES
) -> dict[str, Any]:
  """The JSON object in a file of bounded size.

  Raises:
    UserError: for a file that is too large or not a JSON object.
  """
  with reading(path, "file"):
    return parse_json(plain_files.read(path, max_bytes))


def find_file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The file of that name in a folder; None where there is none.

  A link is followed only into the folder, or into the store of the hub's cache
  that the folder belongs to.

  Raises:
    UserError: for a name or a link that leads out of the folder.
  """
  if not PLAIN_NAME.fullmatch(name):
    raise UserError(
      f"{str(folder)!r} refers to a file {one_line(repr(name), longest=80)},"
      " which is no plain file name; download it again"
    )
  path = folder / name
  if not os.path.lexists(path):
    return None
  if not path.is_file():
    raise UserError(
      f"{str(path)!r} is no plain file; put the file itself there"
    )
  home = folder.resolve()
  allowed = {home}
  if home.parent.name == "snapshots":
    allowed.add(home.parents[1] / "blobs")
  if path.resolve().parent not in allowed:
    raise UserError(
      f"{str(path)!r} is a link that leads out of its folder; put the file"
      " itself there"
    )
  return path


def files_within(folder: pathlib.Path) -> dict[str, int]:
  """The files below a folder, as `a/b` -> bytes.

  Raises:
    MalformedError: for a link that leads out of the folder.
  """
  home = folder.resolve()
  sizes = {}
  for parent, folders, files in os.walk(folder):
    for name in (*folders, *files):
      path = pathlib.Path(parent, name)
      if path.is_symlink() and home not in path.resolve().parents:
        raise MalformedError(f"its {name!r} is a link that leads out of it")
    for name in files:
      path = pathlib.Path(parent, name)
      if path.is_file():
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
  return sizes
