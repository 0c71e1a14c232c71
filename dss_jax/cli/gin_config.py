"""The edge where gin meets the library.

The library itself knows nothing of gin: this module finds the packaged `gin/`
folder from anywhere, parses files and `--gin.NAME=VALUE` flags, and builds
what they configure.
"""

from __future__ import annotations

import ast
import copy
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import gin.config

from dss_jax.base.errors import UserError
from dss_jax.cli import (
  gin_checks,
  gin_registry,
  gin_statements,
  t5x_dialect,
  unread_bindings,
)
from dss_jax.cli.gin_registry import MACRO, PACKAGED_FOLDER
from dss_jax.cli.gin_statements import Statement

# ------------------------------------------------------------------- parsing


def parse(
  gin_files: Sequence[str] = (),
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
  *,
  run_file: str | None = None,
  root: str | None = None,
) -> None:
  """Parses gin files and bindings into gin's global configuration.

  Args:
    gin_files: paths, looked up in `search_paths`, in the working folder and
      then in the packaged `gin/` folder (`runs/train.gin`).
    bindings: `NAME = VALUE` strings; they win over the files.
    search_paths: further folders to look in, first one first.
    run_file: what a run was configured with, parsed first. The files may make
      parts of it superfluous.
    root: the configurable that will be made; None makes a run.

  Raises:
    UserError: for a missing file, a syntax error, an unknown name, or one that
      nothing reads.
  """
  gin_registry.register()
  clear()
  folders = _set_folders(search_paths)
  of_run = [] if run_file is None else _parse_file(run_file, folders)
  parsed = []
  for path in gin_files:
    parsed += _parse_file(path, folders)
  # Each binding alone, so that an error names the one at fault.
  for binding in bindings:
    with gin_checks.one_line_errors(binding):
      gin.parse_config(binding)
      parsed += gin_statements.of_text(binding)
  own = [each for each in parsed if not each.is_packaged]
  unread_bindings.check_all_is_read(
    own, of_run + parsed, root or ROOT, _READ_DIRECTLY
  )
  if run_file is None:
    _bind_rows_alone(own)
  _bind_checkpoint_sizes()


def _set_folders(search_paths: Sequence[str]) -> list[str]:
  """Tells gin where files are; returns the folders."""
  for folder in search_paths:
    if not pathlib.Path(folder).is_dir():
      raise UserError(
        f"--gin_search_paths: {folder!r} is not a folder; give folders"
        " separated by commas"
      )
  folders = [*search_paths, "", str(PACKAGED_FOLDER)]
  # The package reader makes gin raise TypeError where the working folder has
  # a folder of a packaged file's name; plain files are all we need.
  reader: Any = functools.partial(open, encoding="utf-8-sig")
  gin.config._FILE_READERS[:] = [(reader, os.path.isfile)]
  gin.config._LOCATION_PREFIXES[:] = [
    f"{folder.rstrip('/')}/" if folder else "" for folder in folders
  ]
  return folders


def _parse_file(path: str, folders: Sequence[str]) -> list[Statement]:
  """Parses a file; returns its statements."""
  with gin_checks.one_line_errors(where=f"{path}: "):
    statements = _statements(path, folders, ())
    try:
      gin.parse_config_file(path)
    except ImportError as error:
      reason = str(error).split("\n")[0]
      raise UserError(
        f"{path}: {reason}: install it, or delete the line that imports it"
      ) from error
  return statements


def _statements(
  path: str, folders: Sequence[str], above: tuple[str, ...]
) -> list[Statement]:
  """The statements of a file and of what it includes.

  Raises:
    UserError: a file that is not there, is not UTF-8, includes itself or is
      written for T5X.
  """
  file = gin_statements.find(path, folders)
  if file is None:
    what = f"{path!r} is" if not above else f"{above[-1]!r} includes {path!r},"
    instead = t5x_dialect.of_file(path)
    hint = f": {instead}" if instead else gin_statements.close_names(path)
    raise UserError(
      f"--gin_file: {what} neither a file here nor one of the packaged gin"
      f" files{hint}"
    )
  if path in above:
    raise UserError(f"--gin_file: {path!r} includes itself")
  text = gin_statements.read(file)
  packaged = gin_statements.is_packaged(file)
  statements = list(gin_statements.of_text(text, path, is_packaged=packaged))
  if not packaged:
    t5x_dialect.check(statements, path)
  found = []
  for each in statements:
    if each.kind == gin_statements.INCLUDE:
      found += _statements(each.name, folders, (*above, path))
    else:
      found.append(each)
  return found


def _bind_rows_alone(own: Sequence[Statement]) -> None:
  """Lets BATCH_SIZE mean packed rows, where the user asks for no records.

  The packaged files ask for a number of records, which would hold as well.
  """
  macros = {each.name: each.value for each in own if each.is_macro}
  if macros.get("BATCH_SIZE") is not None and _RECORDS not in macros:
    gin.bind_parameter(f"{_RECORDS}/{MACRO}.value", None)


# What a run is made by.
ROOT = "train.train"
_RECORDS = "RECORDS_PER_BATCH"
# Macros that the command line reads itself; the last one says only that.
_SIZES_FROM = "SIZES_FROM_CHECKPOINT"
_VOCABULARY_FROM = "VOCABULARY_FROM_CHECKPOINT"
_READ_DIRECTLY = (
  "MIXTURE_OR_TASK_MODULE",
  "DATA_DIR",
  _SIZES_FROM,
  _VOCABULARY_FROM,
)


def _bind_checkpoint_sizes() -> None:
  """Binds a student's sizes and vocabulary, or that alone, to a checkpoint's.

  Here and not by a configurable, so that the operative configuration has the
  sizes themselves: a run must not need the checkpoint that it began with.
  """
  has_sizes = (_SIZES_FROM, MACRO) in gin.config._CONFIG
  path = macro("INITIAL_CHECKPOINT_PATH")
  if not has_sizes and (
    (_VOCABULARY_FROM, MACRO) not in gin.config._CONFIG
    or path is None
    or macro("VOCABULARY") is not None
  ):
    return
  if path is None:
    raise UserError(
      "models/from_checkpoint.gin takes the student's sizes from"
      " INITIAL_CHECKPOINT_PATH, which is not set: add"
      " --gin.INITIAL_CHECKPOINT_PATH=..., or give another models/*.gin"
    )
  from dss_jax.pretrained import opening
  from dss_jax.training import initialization

  opened = initialization.open_checkpoint(path)
  sizes = opening.bindings(opened) if has_sizes else {}
  for name, value in sizes.items():
    gin.bind_parameter(f"network.T5Config.{name}", value)
  if macro("VOCABULARY") is None and (name := opened.own_vocabulary()):
    gin.bind_parameter(f"VOCABULARY/{MACRO}.value", name)


def clear() -> None:
  """Forgets all parsed bindings (not the registered names)."""
  gin.clear_config(clear_constants=False)


def binding_from_flag(flag: str) -> str:
  """Turns `--gin.NAME=VALUE` into a gin binding, quoting plain strings.

  `--gin.MODEL_DIR=runs/x` and `--gin.MODEL_DIR="'runs/x'"` mean the same;
  references (`@name`), macros (`%NAME`) and Python literals stay as they are.
  """
  name, separator, value = flag.removeprefix("--gin.").partition("=")
  if not separator or not name:
    raise UserError(f"{flag!r}: write --gin.NAME=VALUE")
  return f"{name} = {_quoted_if_plain(value)}"


def _quoted_if_plain(value: str) -> str:
  if re.match(r"\s*[@%]", value) or re.search(r"[\[({].*[@%]", value):
    return value
  try:
    ast.literal_eval(value)
    return value
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return repr(value)


# --------------------------------------------------------------------- using


def instance(name: str, **kwargs: Any) -> Any:
  """Calls the configurable `name` with what the configuration binds.

  Raises:
    UserError: where the configuration is wrong, or leaves out what is needed.
  """
  gin_registry.register()
  gin_checks.check_complete(name)
  gin_checks.check_types()
  with gin_checks.one_line_errors():
    return gin.get_configurable(name)(**kwargs)


def configures(name: str) -> bool:
  """Whether anything binds a parameter of the configurable `name`."""
  return any(selector == name for _, selector in gin.config._CONFIG)


def macro(name: str, default: Any = None) -> Any:
  """The value of a macro, or `default` where it is unset or required."""
  value = gin.config._CONFIG.get((name, MACRO), {}).get("value", default)
  if gin_registry.is_reference_to(value, gin_registry.CONSTANT):
    return default
  with gin_checks.one_line_errors():
    # gin evaluates references when they are copied.
    return copy.deepcopy(value)


def set_defaults(values: Mapping[str, Any]) -> None:
  """Gives macros that nobody has set a value."""
  for name, value in values.items():
    if macro(name) is None:
      gin.bind_parameter(f"{name}/{MACRO}.value", value)


def macros() -> list[str]:
  """The names of all macros that are bound or referred to."""
  bound = {name for name, selector in gin.config._CONFIG if selector == MACRO}
  return sorted(bound | unread_bindings.referenced_macros())


def canonical_bindings() -> dict[str, str]:
  """All that is bound, by full names in order, but for MODEL_DIR.

  However a configuration is cut into files and flags, and in whatever order:
  what makes the same run gives the same bindings.
  """
  return dict(
    sorted(
      (_full_name(scope, selector, parameter), _canonical(value))
      for (scope, selector), bound in gin.config._CONFIG.items()
      for parameter, value in bound.items()
      if (scope, selector) != ("MODEL_DIR", MACRO)
    )
  )


def _full_name(scope: str, selector: str, parameter: str) -> str:
  if selector == MACRO:
    return scope
  return (
    f"{scope}/{selector}.{parameter}" if scope else f"{selector}.{parameter}"
  )


def _canonical(value: Any) -> str:
  """The gin text of a value; the order of a dictionary's keys says nothing."""
  if isinstance(value, dict):
    items = sorted((repr(key), _canonical(item)) for key, item in value.items())
    return f"{{{', '.join(f'{key}: {item}' for key, item in items)}}}"
  if isinstance(value, list | tuple):
    return f"[{', '.join(map(_canonical, value))}]"
  return repr(value)


def operative_config(modules: Sequence[str] = ()) -> str:
  """The bindings used so far, as gin text that can be parsed again.

  Args:
    modules: names of modules that were imported for their tasks.
  """
  text = gin.operative_config_str(max_line_length=100)
  # What was made within the scope of `train/utils.DatasetConfig`, or of a macro
  # (gin takes its name for a scope), is written with that scope, and a later
  # binding without it would lose against it unnoticed.
  own_scope = (
    r"^((?:# Parameters for )?)(?:train/(?!DatasetConfig\b)|[A-Z][A-Z_0-9]*/)"
  )
  text = re.sub(own_scope, r"\1", text, flags=re.MULTILINE)
  if modules:
    text = f"MIXTURE_OR_TASK_MODULE = {list(modules)!r}\n\n{text}"
  return text
