"""Flags made of dataclasses: names, types, defaults and help from one place.

A dataclass is read from its source and not imported: `--help` and a mistyped
flag must not wait for JAX, which the modules of most options import.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import pathlib
import re
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

Options = TypeVar("Options")

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]

# Annotation -> type and placeholder.
_TYPES: dict[str, tuple[type, str]] = {
  "int": (int, "N"),
  "float": (float, "X"),
  "str": (str, "NAME"),
}


class _Field(NamedTuple):
  """A field of a dataclass, as its source states it.

  Attributes:
    annotation: without `| None`.
    default: source of the default; None for a required field.
    help: its entry in the docstring's `Attributes:` section.
  """

  annotation: str
  default: str | None
  help: str


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
  fields = _read(options)
  field_flags = dict(parser.get_default("field_flags") or {})
  class_name = options if isinstance(options, str) else options.__name__
  class_name = class_name.rpartition(".")[2]
  for name in names or fields:
    change = changes.get(name, {})
    if change is None:
      continue
    arguments = {**_arguments(name, fields[name]), **change}
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


def _names(text: str) -> tuple[str, ...]:
  return tuple(name.strip() for name in text.split(","))


# Changes `add_flags` for a tuple whose names are separated by commas.
NAMES = {"type": _names, "action": "store", "nargs": None, "metavar": "A,B,..."}


def _arguments(name: str, field: _Field) -> dict[str, Any]:
  """Arguments of `add_argument` for a field."""
  arguments: dict[str, Any] = {"help": field.help.replace("%", "%%")}
  if field.default is None:
    arguments["required"] = True
  else:
    shown: Any = field.default
    try:
      shown = arguments["default"] = ast.literal_eval(field.default)
    except ValueError:  # an expression, which the class itself computes
      arguments["default"] = argparse.SUPPRESS
    if isinstance(shown, tuple):
      arguments["default"], shown = list(shown), ",".join(shown)
    if not (shown is None or shown is False or shown == ""):
      arguments["help"] += f"; default: {shown}"
  if field.annotation == "bool":
    return {**arguments, "action": "store_true"}
  kind, several = re.subn(r"tuple\[(\w+), \.\.\.\]", r"\1", field.annotation)
  if several:
    arguments |= {"action": "extend", "nargs": "+"}
  arguments["type"], arguments["metavar"] = _TYPES[kind]
  if name.endswith("_dir"):
    arguments["metavar"] = "FOLDER"
  elif name in ("input", "output"):
    arguments["metavar"] = "FILE"
  return arguments


def _read(options: type | str) -> dict[str, _Field]:
  """The fields of a dataclass, by name."""
  if isinstance(options, str):
    module, _, class_name = options.rpartition(".")
    file = _PACKAGE / f"{module.replace('.', '/')}.py"
  else:
    file, class_name = inspect.getfile(options), options.__name__
  (definition,) = (
    node
    for node in _parsed(str(file)).body
    if isinstance(node, ast.ClassDef) and node.name == class_name
  )
  helps = _attributes(ast.get_docstring(definition) or "")
  return {
    node.target.id: _Field(
      ast.unparse(node.annotation).removesuffix(" | None"),
      node.value and ast.unparse(node.value),
      helps.get(node.target.id, ""),
    )
    for node in definition.body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
  }


@functools.cache
def _parsed(file: str) -> ast.Module:
  return ast.parse(pathlib.Path(file).read_text(encoding="utf-8"))


def _attributes(docstring: str) -> dict[str, str]:
  """The entries of the `Attributes:` section, each in one line."""
  section = re.search(r"^Attributes:\n((?: +.*\n?|\n)+)", docstring, re.M)
  if not section:
    return {}
  entries = re.findall(
    r"^(\w+): (.*(?:\n +.*)*)", textwrap.dedent(section.group(1)), re.M
  )
  return {
    name: " ".join(text.replace("`", "").split()).rstrip(".")
    for name, text in entries
  }
