"""The edge where gin meets the library.

The library itself knows nothing of gin: this module finds the packaged `gin/`
folder from anywhere, parses files and `--gin.NAME=VALUE` flags, and builds
what they configure.
"""

from __future__ import annotations

import ast
import copy
import difflib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import gin.config

from dss_jax.base.errors import UserError
from dss_jax.cli import gin_checks, gin_registry
from dss_jax.cli.gin_registry import MACRO, PACKAGED_FOLDER

# ------------------------------------------------------------------- parsing


def parse(
  gin_files: Sequence[str] = (),
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
) -> None:
  """Parses gin files and bindings into gin's global configuration.

  Args:
    gin_files: paths, looked up in `search_paths`, in the working folder and
      then in the packaged `gin/` folder (`runs/train.gin`).
    bindings: `NAME = VALUE` strings; they win over the files.
    search_paths: further folders to look in, first one first.

  Raises:
    UserError: for a missing file, a syntax error or an unknown name.
  """
  gin_registry.register()
  clear()
  folders = [*search_paths, "", str(PACKAGED_FOLDER)]
  for folder in search_paths:
    if not pathlib.Path(folder).is_dir():
      raise UserError(
        f"--gin_search_paths: {folder!r} is not a folder; give folders"
        " separated by commas"
      )
  # The package reader makes gin raise TypeError where the working folder has
  # a folder of a packaged file's name; plain files are all we need.
  gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
  gin.config._LOCATION_PREFIXES[:] = [
    f"{folder.rstrip('/')}/" if folder else "" for folder in folders
  ]
  for path in gin_files:
    _check_file(path, folders)
    with gin_checks.one_line_errors(where=f"{path}: "):
      gin.parse_config_file(path)
  # Each binding alone, so that an error names the one at fault.
  for binding in bindings:
    with gin_checks.one_line_errors(binding):
      gin.parse_config(binding)
  gin_checks.check_macros_are_read(bindings, _READ_DIRECTLY)
  _bind_checkpoint_sizes()


# Macros that the command line reads itself; the last one says only that.
_SIZES_FROM = "SIZES_FROM_CHECKPOINT"
_READ_DIRECTLY = ("MIXTURE_OR_TASK_MODULE", "DATA_DIR", _SIZES_FROM)


def _bind_checkpoint_sizes() -> None:
  """Binds a student's sizes and vocabulary to those of a checkpoint.

  Here and not by a configurable, so that the operative configuration has the
  sizes themselves: a run must not need the checkpoint that it began with.
  """
  if (_SIZES_FROM, MACRO) not in gin.config._CONFIG:
    return
  path = macro("INITIAL_CHECKPOINT_PATH")
  if path is None:
    raise UserError(
      "models/from_checkpoint.gin takes the student's sizes from"
      " INITIAL_CHECKPOINT_PATH, which is not set: add"
      " --gin.INITIAL_CHECKPOINT_PATH=..., or give another models/*.gin"
    )
  from dss_jax.pretrained import opening
  from dss_jax.training import initialization

  opened = initialization.open_checkpoint(path)
  for name, value in opening.bindings(opened).items():
    gin.bind_parameter(f"network.T5Config.{name}", value)
  if macro("VOCABULARY") is None and (name := opened.own_vocabulary()):
    gin.bind_parameter(f"VOCABULARY/{MACRO}.value", name)


def clear() -> None:
  """Forgets all parsed bindings (not the registered names)."""
  gin.clear_config(clear_constants=False)


def _check_file(path: str, folders: Sequence[str]) -> None:
  candidates = [pathlib.Path(folder) / path for folder in folders]
  if any(candidate.is_file() for candidate in candidates):
    return
  packaged = sorted(
    str(found.relative_to(PACKAGED_FOLDER))
    for found in PACKAGED_FOLDER.rglob("*.gin")
  )
  close = difflib.get_close_matches(path, packaged, n=3, cutoff=0.4)
  hint = f"; did you mean {' or '.join(close)}?" if close else ""
  raise UserError(
    f"--gin_file: {path!r} is neither a file here nor one of the packaged"
    f" gin files{hint}"
  )


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


def operative_config(modules: Sequence[str] = ()) -> str:
  """The bindings used so far, as gin text that can be parsed again.

  Args:
    modules: names of modules that were imported for their tasks.
  """
  text = gin.operative_config_str(max_line_length=100)
  # What was made within the scope of `train/utils.DatasetConfig` is written with
  # that scope, and a later binding without it would lose against it unnoticed.
  own_scope = r"^((?:# Parameters for )?)train/(?!DatasetConfig\b)"
  text = re.sub(own_scope, r"\1", text, flags=re.MULTILINE)
  if modules:
    text = f"MIXTURE_OR_TASK_MODULE = {list(modules)!r}\n\n{text}"
  return text
