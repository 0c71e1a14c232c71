"""Flags made of dataclasses: names, types, defaults and help from one place.

A dataclass is read from its source and not imported: `--help` and a mistyped
flag must not wait for JAX, which the modules of most options import.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Options = TypeVar("Options")

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]

_TYPES = {"int": (int, "N"), "float": (float, "X"), "str": (str, "NAME")}


# Changes `add_flags` for a tuple whose names are separated by commas.
NAMES = {
  "type": lambda text: tuple(name.strip() for name in text.split(",")),
  "action": "store",
  "nargs": None,
  "metavar": "A,B,...",
}


def add_flags(
  parser: argparse.ArgumentParser,
  options: type | str,
  *names: str,
  title: str | None = None,
  **changes: Mapping[str, Any] | None,
) -> argparse._ActionsContainer:
  """Adds a flag for each field of a dataclass to a mode's parser.

  A tuple becomes a flag that takes several values and may be repeated. The
  parser remembers which flag sets which field, for `build` and for errors.

  Args:
    parser: takes the flags.
    options: a dataclass of the command line, or `folder.module.Class` for one
      elsewhere in the package.
    names: the fields; all of them if none is named.
    title: heading above the flags in the help.
    changes: by field, arguments of `add_argument` that differ from what the
      dataclass says, and `flag` where the flag has another name; None leaves
      the field without a flag.

  Returns:
    The group of flags in the help, for flags of no dataclass.
  """
  group = next((g for g in parser._action_groups if g.title == title), None)
  group = group or (parser.add_argument_group(title) if title else parser)
  field_flags = dict(parser.get_default("field_flags") or {})
  class_name = str(getattr(options, "__name__", options)).rpartition(".")[2]
  for name, read in _read(options, names).items():
    if (change := changes.get(name, {})) is None:
      continue
    arguments = {**read, **change}
    flag = arguments.pop("flag", name)
    field_flags[f"{class_name}.{name}"] = flag
    group.add_argument(f"--{flag}", **arguments)
  parser.set_defaults(field_flags=field_flags)
  return group


def build(
  options: type[Options], args: argparse.Namespace, **values: Any
) -> Options:
  """The options that the flags of a command line ask for.

  Args:
    options: a dataclass whose flags `add_flags` has declared, or some of them.
    args: the parsed command line.
    values: further fields, and those that differ from their flags.
  """
  found = {}
  for field in dataclasses.fields(options):  # type: ignore[arg-type]
    flag = args.field_flags.get(f"{options.__name__}.{field.name}")
    if flag is not None and hasattr(args, flag):
      value = getattr(args, flag)
      found[field.name] = tuple(value) if isinstance(value, list) else value
  return options(**found | values)


def _arguments(field: ast.AnnAssign, help_text: str) -> dict[str, Any]:
  """Arguments of `add_argument` for a field."""
  name, annotation = ast.unparse(field.target), ast.unparse(field.annotation)
  arguments: dict[str, Any] = {"help": help_text.replace("%", "%%")}
  if field.value is None:
    arguments["required"] = True
  else:
    try:
      shown = arguments["default"] = ast.literal_eval(field.value)
    except ValueError:  # an expression, which the class itself computes
      shown = ast.unparse(field.value)
      arguments["default"] = argparse.SUPPRESS
    if isinstance(shown, tuple):
      arguments["default"], shown = list(shown), ",".join(shown)
    if not (shown is None or shown is False or shown == ""):
      arguments["help"] += f"; default: {shown}"
  kind = annotation.removesuffix(" | None")
  if kind == "bool":
    return {**arguments, "action": "store_true"}
  if kind.startswith("tuple["):
    kind = kind.removeprefix("tuple[").removesuffix(", ...]")
    arguments |= {"action": "extend", "nargs": "+"}
  arguments["type"], arguments["metavar"] = _TYPES[kind]
  if name.endswith("_dir"):
    arguments["metavar"] = "FOLDER"
  elif name in ("input", "output"):
    arguments["metavar"] = "FILE"
  return arguments


def _read(
  options: type | str, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """Arguments of `add_argument` for fields of a dataclass, by their names."""
  if isinstance(options, str):
    module, _, class_name = options.rpartition(".")
    file = _PACKAGE / f"{module.replace('.', '/')}.py"
  else:
    file, class_name = pathlib.Path(inspect.getfile(options)), options.__name__
  (definition,) = (
    node
    for node in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and node.name == class_name
  )
  _, _, section = (ast.get_docstring(definition) or "").partition("Attributes:")
  helps = {
    name: " ".join(text.replace("`", "").split()).rstrip(".")
    for name, text in re.findall(r"\n  (\w+): (.*(?:\n    .*)*)", section)
  }
  fields = {
    ast.unparse(node.target): node
    for node in definition.body
    if isinstance(node, ast.AnnAssign)
  }
  return {
    name: _arguments(fields[name], helps.get(name, ""))
    for name in names or fields
  }
