"""The edge where gin meets the library.

The library itself knows nothing of gin: this module registers its classes and
functions under T5X's names, finds the packaged `gin/` folder from anywhere,
parses files and `--gin.NAME=VALUE` flags, and says what is wrong in one line.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib

# gin-config 0.5.0 uses importlib.util without importing it.
import importlib.util  # noqa: F401
import inspect
import os
import pathlib
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gin
import gin.config

from dss_jax import value_types
from dss_jax.errors import UserError, one_line

PACKAGED_FOLDER = pathlib.Path(__file__).resolve().parent / "gin"

# Name in gin -> what it configures, filled by `register`.
_configurables: dict[str, Any] = {}


def register() -> None:
  """Registers the library's configurables, once, under T5X's names."""
  if _configurables:
    return

  # Imported here: `dss-jax --help` must not pay for JAX.
  from dss_jax import (
    checkpoints,
    datasets,
    evaluation,
    generation,
    lora,
    losses,
    optimizers,
    partitioning,
    schedules,
    train_config,
  )
  from dss_jax.data import pipeline, subtasks
  from dss_jax.models import config, encoder_decoder

  def configurable(target: Any, name: str) -> None:
    module, _, short = name.rpartition(".")
    gin.external_configurable(target, name=short, module=module)
    _configurables[name] = target

  configurable(config.T5Config, "network.T5Config")
  configurable(
    encoder_decoder.EncoderDecoderModel, "models.EncoderDecoderModel"
  )
  configurable(optimizers.Adafactor, "adafactor.Adafactor")
  configurable(optimizers.AdamW, "optimizers.AdamW")
  configurable(optimizers.ParameterScaledAdam, "optimizers.ParameterScaledAdam")
  configurable(
    schedules.create_learning_rate_scheduler,
    "utils.create_learning_rate_scheduler",
  )
  configurable(losses.Objective, "losses.Objective")
  configurable(lora.LoraOptions, "lora.LoraOptions")
  configurable(partitioning.Partitioner, "partitioning.PjitPartitioner")
  configurable(
    partitioning.standard_logical_axis_rules,
    "partitioning.standard_logical_axis_rules",
  )
  configurable(datasets.DataOptions, "data.DataOptions")
  configurable(subtasks.MethodOptions, "data.MethodOptions")
  configurable(pipeline.DatasetConfig, "utils.DatasetConfig")
  configurable(pipeline.task_name, "data.task_name")
  configurable(generation.DecodeOptions, "decoding.DecodeOptions")
  configurable(evaluation.EvaluationConfig, "evaluation.EvaluationConfig")
  configurable(checkpoints.SaveOptions, "utils.SaveCheckpointConfig")
  configurable(train_config.TrainConfig, "train.train")


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
  register()
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
    with _gin_errors(where=f"{path}: "):
      gin.parse_config_file(path)
  # Each binding alone, so that an error names the one at fault.
  for binding in bindings:
    with _gin_errors(binding):
      gin.parse_config(binding)
  _check_macros_are_read(bindings)
  _bind_checkpoint_sizes()


# Macros that the command line reads itself.
_SIZES_FROM = "SIZES_FROM_CHECKPOINT"
_READ_DIRECTLY = ("MIXTURE_OR_TASK_MODULE", "DATA_DIR", _SIZES_FROM)


def _bind_checkpoint_sizes() -> None:
  """Binds a student's sizes and vocabulary to those of a checkpoint.

  Here and not by a configurable, so that the operative configuration has the
  sizes themselves: a run must not need the checkpoint that it began with.
  """
  bound = gin.config._CONFIG.get((_SIZES_FROM, _MACRO), {}).get("value")
  path, name = _follow_macros(bound)
  if bound is None or _is_reference(path):
    return  # what is not set is told where it is needed
  if not isinstance(path, str):
    raise UserError(
      f"{name or _SIZES_FROM} is {one_line(repr(path))}, but"
      " models/from_checkpoint.gin takes the student's sizes from there: give a"
      " checkpoint, or another of models/*.gin"
    )
  from dss_jax.pretrained import opening

  opened = opening.open_pretrained(path)
  for name, value in opening.bindings(opened).items():
    gin.bind_parameter(f"network.T5Config.{name}", value)
  if macro("VOCABULARY") is None and opened.vocabulary is not None:
    gin.bind_parameter(f"VOCABULARY/{_MACRO}.value", opened.vocabulary)


def _check_macros_are_read(bindings: Sequence[str]) -> None:
  """Raises UserError for a macro in `bindings` that nothing refers to.

  gin takes any name for a macro, so a misspelt one would pass unnoticed.
  """
  read = {*_READ_DIRECTLY, *_referenced_macros()}
  for binding in bindings:
    name = re.match(r"\s*(\w+)\s*=", binding)
    if name and name.group(1) not in read:
      close = difflib.get_close_matches(name.group(1), read, n=3)
      hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else (f"there are {', '.join(sorted(read))}")
      )
      raise UserError(f"gin macro {name.group(1)} is used nowhere; {hint}")


def _referenced_macros() -> set[str]:
  found = set()
  waiting: list[Any] = list(gin.config._CONFIG.values())
  while waiting:
    value = waiting.pop()
    if isinstance(value, dict):
      waiting += value.values()
    elif isinstance(value, list | tuple):
      waiting += value
    elif _is_reference_to(value, _MACRO):
      found.add("/".join(value.scopes))
  return found


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
  register()
  _check_complete(name)
  _check_types()
  with _gin_errors():
    return gin.get_configurable(name)(**kwargs)


def macro(name: str, default: Any = None) -> Any:
  """The value of a macro, or `default` where it is unset or required."""
  value = gin.config._CONFIG.get((name, _MACRO), {}).get("value", default)
  if _is_reference_to(value, _CONSTANT):
    return default
  with _gin_errors():
    # gin evaluates references when they are copied.
    return copy.deepcopy(value)


_MACRO = "gin.macro"
_CONSTANT = "gin.constant"  # of which gin.REQUIRED is the only one in use


def _is_reference_to(value: Any, selector: str) -> bool:
  return (
    isinstance(value, gin.config.ConfigurableReference)
    and value.selector == selector
  )


def _check_types() -> None:
  """Raises UserError where a plain value is not of its parameter's type."""
  for (_, selector), bindings in gin.config._CONFIG.items():
    target = _configurables.get(selector)
    hints = value_types.parameter_types(target) if target else {}
    for parameter, bound in bindings.items():
      value, name = _follow_macros(bound)
      hint = hints.get(parameter, Any)
      if value_types.matches(value, hint, _is_reference):
        continue
      binding = f"{selector}.{parameter}"
      allowed = value_types.describe(hint)
      shown = one_line(repr(value))
      raise UserError(
        f"{name} is {shown}; {binding} must be {allowed}"
        if name
        else f"{binding} is {shown}; it must be {allowed}"
      )


def _follow_macros(value: Any) -> tuple[Any, str | None]:
  """What a binding ends at, and the last macro on the way there.

  Raises:
    UserError: where macros stand for each other in a circle.
  """
  names: list[str] = []
  while _is_reference_to(value, _MACRO):
    name = "/".join(value.scopes)
    if name in names:
      raise UserError(
        f"gin macro {name} stands for itself"
        f" ({' -> '.join([*names, name])}): give it a value"
      )
    names.append(name)
    bindings = gin.config._CONFIG.get((name, _MACRO), {})
    if "value" not in bindings:
      break
    value = bindings["value"]
  return value, names[-1] if names else None


def _is_reference(value: Any) -> bool:
  return isinstance(value, gin.config.ConfigurableReference)


def _check_complete(name: str) -> None:
  """Raises UserError naming every macro that `name` needs and nobody set."""
  config = gin.config._CONFIG
  if not any(selector == name for _, selector in config):
    raise UserError(
      f"nothing configures {name}: add --gin_file=runs/train.gin, or another"
      " run"
    )
  missing: dict[str, None] = {}  # in order of appearance
  seen = set()
  waiting: list[Any] = [
    bindings for (_, selector), bindings in config.items() if selector == name
  ]
  while waiting:
    value = waiting.pop(0)
    if isinstance(value, dict):
      waiting += value.values()
    elif isinstance(value, list | tuple):
      waiting += value
    elif isinstance(value, gin.config.ConfigurableReference):
      key = ("/".join(value.scopes), value.selector)
      if key in seen:
        continue
      seen.add(key)
      if value.selector == _MACRO:
        bound = config.get(key, {}).get("value", gin.REQUIRED)
        if bound is gin.REQUIRED or _is_reference_to(bound, _CONSTANT):
          missing[key[0]] = None
        else:
          waiting.append(bound)
      else:
        waiting += [
          bindings
          for (scope, selector), bindings in config.items()
          if selector == value.selector and scope in ("", key[0])
        ]
  if missing:
    are = "is" if len(missing) == 1 else "are"
    raise UserError(
      f"{', '.join(missing)} {are} not set: add {_how_to_set(missing)}"
    )


def _how_to_set(macros: Iterable[str]) -> str:
  """The flags that set macros: packaged files where there are such."""
  flags: dict[str, list[str]] = {}
  for name in macros:
    setting = re.compile(rf"^{name} = (?!%gin\.REQUIRED)", re.MULTILINE)
    folders = {
      path.parent.name
      for path in PACKAGED_FOLDER.rglob("*.gin")
      if path.parent.name != "runs"
      and setting.search(path.read_text(encoding="utf-8"))
    }
    folder = "models" if "t5_1_1" in folders else min(folders, default=None)
    flag = f"--gin_file={folder}/..." if folder else f"--gin.{name}=..."
    flags.setdefault(flag, []).append(name)
  parts = []
  for flag, names in flags.items():
    if not flag.startswith("--gin_file"):
      parts.append(flag)
    elif "=models/" in flag:
      parts.append(f"{flag} (for {', '.join(names)})")
    else:
      alone = " ".join(f"--gin.{name}=..." for name in names)
      parts.append(f"{flag} (or {alone})")
  return " ".join(parts)


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


@contextlib.contextmanager
def _gin_errors(binding: str = "", where: str = "") -> Iterator[None]:
  """Turns gin's errors about the user's configuration into one line each.

  Args:
    binding: what is parsed, where it is not a file.
    where: precedes the message, such as a file's name.
  """
  try:
    yield
  except UserError as error:
    # gin appends its own trace of scopes to the message: keep the first line.
    raise UserError(str(error).split("\n")[0]) from error
  except (
    ValueError,
    RuntimeError,
    TypeError,
    SyntaxError,
    OSError,
    tokenize.TokenError,
  ) as error:
    message = _one_line(error, binding)
    if message is None:
      raise
    raise UserError(f"{where}{message}") from error


def _one_line(error: Exception, binding: str) -> str | None:
  """What gin says of the configuration, shortened; None if it is not gin's."""
  text = str(error)
  unknown = re.search(
    r"No configurable matching (?:reference )?'@?([^'()]+)", text
  )
  if unknown:
    return _unknown_name(unknown.group(1))
  if isinstance(error, tokenize.TokenError):
    what = repr(binding) if binding else "a binding"
    return f"gin cannot read {what}: {error.args[0]}; write NAME = VALUE"
  if isinstance(error, SyntaxError) and binding:
    return f"gin cannot read {binding!r}: {error.msg} Write NAME = VALUE"
  if isinstance(error, SyntaxError):
    where = f" (line {error.lineno})" if error.lineno else ""
    reason = one_line(error.msg.split("\n")[0])
    if "malformed node" in reason:  # Python's words, with an address in them
      reason = "write numbers, quoted strings, lists, @references, %MACROS"
    return f"gin cannot read {one_line(repr(error.text))}{where}: {reason}"
  no_parameter = re.search(
    r"(?:Configurable|Class|Function) '?([\w./]+)'? doesn't have a parameter"
    r" named '([^']+)'",
    text,
  )
  if no_parameter:
    return _unknown_parameter(*no_parameter.groups())
  if "gin" in text.lower() or "configurable" in text.lower():
    return " ".join(text.split("\n")[0].split())
  return None


def _unknown_name(name: str) -> str:
  known = sorted(_configurables)
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  allowed = " or ".join(close) or ", ".join(known)
  return f"gin binding: nothing is called {name!r}; there is {allowed}"


def _unknown_parameter(name: str, parameter: str) -> str:
  matches = [
    target
    for known, target in _configurables.items()
    if f".{known}".endswith(f".{name}")
  ]
  known = list(inspect.signature(matches[0]).parameters) if matches else []
  close = difflib.get_close_matches(parameter, known, n=3, cutoff=0.5)
  allowed = " or ".join(close) or ", ".join(known)
  return (
    f"gin binding: {name} has no parameter {parameter!r}; there is {allowed}"
  )
