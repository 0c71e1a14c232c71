"""The files of a folder that somebody else filled.

An index names other files, and a folder may hold links. No name leads out of
the folder: links are followed only into it, or into the store of the hub's
cache that the folder belongs to.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

from dss_jax.base.errors import UserError, one_line
from dss_jax.pretrained import huggingface_config

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,250}")
MAX_INDEX_BYTES = 64 * 2**20


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The file of that name in the folder; None where there is none.

  Raises:
    UserError: for a name or a link that leads out of the folder.
  """
  if not _PLAIN_NAME.fullmatch(name):
    raise UserError(
      f"{str(folder)!r} refers to a file {one_line(repr(name), longest=80)},"
      " which is no plain file name; download it again"
    )
  path = folder / name
  if not path.is_file():
    return None
  allowed = {folder.resolve()}
  if folder.resolve().parent.name == "snapshots":
    allowed.add(folder.resolve().parents[1] / "blobs")
  if path.resolve().parent not in allowed:
    raise UserError(
      f"{str(path)!r} is a link that leads out of its folder; put the file"
      " itself there"
    )
  return path


def open_indexed(
  folder: pathlib.Path,
  index_name: str,
  open_file: Callable[[pathlib.Path], dict[str, Any]],
) -> dict[str, Any]:
  """What an index says lies in several files.

  Args:
    folder: where they are.
    index_name: of the JSON file whose `weight_map` gives each array's file.
    open_file: reads one of them.

  Raises:
    UserError: for a file that is missing, or that lacks an array.
  """
  index = find(folder, index_name)
  assert index is not None
  content = huggingface_config.read_json(index, MAX_INDEX_BYTES)
  files = content.get("weight_map")
  if not isinstance(files, dict) or not all(
    isinstance(name, str) for name in files.values()
  ):
    raise UserError(
      f"{str(index)!r} has no 'weight_map' of file names; download it again"
    )
  opened: dict[str, dict[str, Any]] = {}
  for name in sorted(set(files.values())):
    path = find(folder, name)
    if path is None:
      raise UserError(
        f"{str(folder)!r} lacks {name!r}, which {index_name} names; download it"
        " again"
      )
    opened[name] = open_file(path)
  arrays = {}
  for name, file in files.items():
    if name not in opened[file]:
      raise UserError(
        f"{str(folder / file)!r} lacks the array {one_line(name)!r}, which"
        f" {index_name} says is there; download it again"
      )
    arrays[name] = opened[file][name]
  return arrays
