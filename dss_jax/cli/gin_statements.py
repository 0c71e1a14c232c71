"""The statements of the user's gin files and flags, and where they stand.

gin itself keeps what is bound and forgets who bound it. Checks that name a line
read the files here first.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gin import config_parser

from dss_jax.base.errors import UserError
from dss_jax.cli.gin_registry import PACKAGED_FOLDER

BINDING, BLOCK, IMPORT, INCLUDE = "binding", "block", "import", "include"


@dataclasses.dataclass(frozen=True)
class Statement:
  """One statement.

  Attributes:
    kind: `BINDING`, `BLOCK` (the head of several bindings), `IMPORT` or
      `INCLUDE`.
    name: the macro or `module.Class`, the module, or the file.
    file: the path as the user wrote it; empty for a flag.
    line: counts from 1.
    text: the line.
    scope: `train` in `train/utils.DatasetConfig.pack`.
    parameter: what is bound; empty for a macro.
    value: what it is bound to, with references as `Reference` and `Macro`.
    aliased: whether an import gives another name.
    is_packaged: whether it stands in one of dss_jax's own files.
  """

  kind: str
  name: str
  file: str
  line: int
  text: str
  scope: str = ""
  parameter: str = ""
  value: Any = None
  aliased: bool = False
  is_packaged: bool = False

  @property
  def is_macro(self) -> bool:
    return self.kind == BINDING and not self.parameter

  @property
  def place(self) -> str:
    """Begins a message: the file and line, or nothing for a flag."""
    return f"{self.file}, line {self.line}: " if self.file else ""


class Reference(str):
  """`scope/name` of a configurable that a value refers to."""


class Macro(str):
  """The name of a macro that a value refers to."""


class _Delegate(config_parser.ParserDelegate):
  def configurable_reference(self, scoped_configurable_name, evaluate):
    del evaluate
    return Reference(scoped_configurable_name)

  def macro(self, macro_name):
    return Macro(macro_name)


def of_text(
  text: str, file: str = "", *, is_packaged: bool = False
) -> Iterator[Statement]:
  """The statements of a gin text.

  Raises:
    SyntaxError, TokenError: as gin's parser.
  """
  for each in config_parser.ConfigParser(text, _Delegate()):
    at = {
      "file": file,
      "line": each.location.line_num,
      "text": each.location.line_content.strip(),
      "is_packaged": is_packaged,
    }
    if isinstance(each, config_parser.ImportStatement):
      aliased = each.alias is not None
      yield Statement(IMPORT, each.module, **at, aliased=aliased)
    elif isinstance(each, config_parser.IncludeStatement):
      yield Statement(INCLUDE, each.filename, **at)
    elif isinstance(each, config_parser.BlockDeclaration):
      yield Statement(BLOCK, each.selector, **at, scope=each.scope)
    else:
      yield Statement(
        BINDING, each.selector, **at, scope=each.scope,
        parameter=each.arg_name or "", value=each.value,
      )  # fmt: skip


def references(value: object) -> Iterator[Reference | Macro]:
  """All that a statement's value refers to."""
  if isinstance(value, Reference | Macro):
    yield value
  elif isinstance(value, dict):
    yield from references(list(value.values()))
  elif isinstance(value, list | tuple):
    for each in value:
      yield from references(each)


def find(path: str, folders: Sequence[str]) -> pathlib.Path | None:
  """The file that gin reads for a path; None if there is none."""
  candidates = (pathlib.Path(folder) / path for folder in folders)
  return next((each for each in candidates if each.is_file()), None)


def packaged_names() -> list[str]:
  """The packaged files, as the user names them."""
  return sorted(
    found.relative_to(PACKAGED_FOLDER).as_posix()
    for found in PACKAGED_FOLDER.rglob("*.gin")
  )


def close_names(path: str) -> str:
  """`; did you mean runs/train.gin?`, or nothing."""
  close = difflib.get_close_matches(path, packaged_names(), n=3, cutoff=0.4)
  return f"; did you mean {' or '.join(close)}?" if close else ""


def some_of(names: Iterable[str], most: int = 8) -> str:
  """`A, B and 35 more`: the first of many names, in order."""
  known = sorted(names)
  more = len(known) - most
  shown = ", ".join(known[:most])
  return f"{shown} and {more} more" if more > 0 else shown


def is_packaged(file: pathlib.Path) -> bool:
  """Whether a file is one of dss_jax's own."""
  return file.resolve().is_relative_to(PACKAGED_FOLDER.resolve())


def read(file: pathlib.Path) -> str:
  """The text of a gin file, which is UTF-8 whatever the locale.

  Raises:
    UserError: it is not.
  """
  try:
    return file.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    line = error.object[: error.start].count(b"\n") + 1
    raise UserError(
      f"--gin_file: line {line} of {str(file)!r} is not UTF-8"
      f" (byte 0x{error.object[error.start]:02x}): save the file as UTF-8"
    ) from error
