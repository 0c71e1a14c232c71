"""Directives that make the reference pages of what they describe.

`{command-line}` has the modes and flags of the parser itself, `{gin-files}` the
packaged files, `{gin-names}` what gin can bind, and `{public-names}` the names
that docs/architecture.md promises, with their docstrings. Only the command line
is imported, which needs no other package; all else is read as text.
"""

from __future__ import annotations

import argparse
import ast
import pathlib
import re
from collections.abc import Iterator

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_REGISTRY = REPOSITORY / "dss_jax" / "cli" / "gin_registry.py"
_ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


def _section(title: str, *children: nodes.Node) -> nodes.section:
  name = nodes.make_id(title)
  head = nodes.title("", "", nodes.literal(text=title))
  return nodes.section("", head, *children, ids=[name], names=[name])


def _code(text: str, language: str = "none") -> nodes.literal_block:
  return nodes.literal_block(text, text, language=language)


def _paragraph(text: str) -> nodes.paragraph:
  """Text as it is: nothing in it is markup, nor are two dashes one."""
  paragraph = nodes.paragraph(text=" ".join(text.split()))
  paragraph.support_smartquotes = False
  return paragraph


# ------------------------------------------------------------ command line


class CommandLine(SphinxDirective):
  """Every mode with its flags, in the words of `dss-jax MODE --help`."""

  def run(self) -> list[nodes.Node]:
    from dss_jax.cli import command_line

    # Its own help wraps lines as wide as the terminal; here, none.
    parser = command_line.make_parser()
    return [_mode_section(name, command) for name, command in _commands(parser)]


def _commands(
  parser: argparse.ArgumentParser, name: str = "dss-jax"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
  """The parsers below one, with what is typed to reach them."""
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for word, command in action.choices.items():
        yield f"{name} {word}", command
        yield from _commands(command, f"{name} {word}")


def _mode_section(name: str, parser: argparse.ArgumentParser) -> nodes.section:
  section = _section(name, _paragraph(parser.description or ""))
  formatter = argparse.HelpFormatter(parser.prog)
  for group in parser._action_groups:
    actions = [
      each
      for each in group._group_actions
      if each.help != argparse.SUPPRESS
      and not isinstance(
        each, argparse._HelpAction | argparse._SubParsersAction
      )
    ]
    if not actions:
      continue
    if group.title not in ("options", "positional arguments"):
      section += nodes.rubric(text=group.title)
    section += nodes.definition_list(
      "", *(_flag(name, each, formatter) for each in actions)
    )
  if parser.epilog:
    section += _code(parser.epilog.strip("\n"))
  return section


def _flag(
  command: str, action: argparse.Action, formatter: argparse.HelpFormatter
) -> nodes.definition_list_item:
  """A flag, what follows it, and its help."""
  names = action.option_strings or [action.dest]
  words = list(action.option_strings)
  if action.nargs != 0:
    default = action.metavar or action.dest.upper()
    words.append(formatter._format_args(action, str(default)))
  term = nodes.term("", "", nodes.literal(text=" ".join(words)))
  term["ids"].append(nodes.make_id(f"{command} {names[-1]}"))
  text = formatter._expand_help(action) if action.help else ""
  return nodes.definition_list_item(
    "", term, nodes.definition("", _paragraph(text))
  )


# -------------------------------------------------------------------- gin


class GinFiles(SphinxDirective):
  """The packaged files, whole: they are short, and meant to be read."""

  def run(self) -> list[nodes.Node]:
    folder = REPOSITORY / "gin"
    found: dict[str, list[pathlib.Path]] = {}
    for path in sorted(folder.rglob("*.gin")):
      self.env.note_dependency(str(path))
      found.setdefault(path.relative_to(folder).parts[0], []).append(path)
    sections = []
    for name, paths in found.items():
      files = []
      for path in paths:
        shown = path.relative_to(folder).as_posix()
        text = path.read_text(encoding="utf-8").strip()
        files.append(_section(shown, _code(text, "gin")))
      if paths[0].name == name:
        sections += files
      else:
        sections.append(_section(f"{name}/", *files))
    return sections


def _gin_names() -> dict[str, str]:
  """Name in gin -> dotted name in Python, as the registry has them."""
  tree = ast.parse(_REGISTRY.read_text(encoding="utf-8"))
  modules: dict[str, str] = {}
  names: dict[str, str] = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    elif (
      isinstance(node, ast.Assign)
      and isinstance(node.value, ast.Dict)
      and ast.unparse(node.targets[0]) == "targets"
    ):
      for key, value in zip(node.value.keys, node.value.values, strict=True):
        assert isinstance(key, ast.Constant)
        names[key.value] = ast.unparse(value)
  return {
    name: f"{modules[module]}.{rest}"
    for name, target in names.items()
    for module, _, rest in [target.partition(".")]
  }


class GinNames(SphinxDirective):
  """What gin can bind: the parameters of each class or function."""

  def run(self) -> list[nodes.Node]:
    self.env.note_dependency(str(_REGISTRY))
    public = set(_public_names())
    sections = []
    for name, target in sorted(_gin_names().items()):
      section = _section(name)
      section["ids"] = [nodes.make_id(f"gin {name}")]
      if target in public:
        text = [f"The arguments of :py:obj:`{target}`."]
      else:
        text = _autoapi(self, target)
      self.state.nested_parse(StringList(text, self.env.docname), 0, section)
      sections.append(section)
    return sections


# ----------------------------------------------------------------- Python


def _public_names() -> list[str]:
  """Those of the table in docs/architecture.md, in its order."""
  page = _ARCHITECTURE.read_text(encoding="utf-8")
  _, _, section = page.partition("## Public API and stability")
  rows = re.findall(r"^\| `(dss_jax[\w.]+)` \| (.*) \|$", section, re.MULTILINE)
  return [
    f"{module}.{name}"
    for module, cell in rows
    for name in re.findall(r"`(\w+)`", cell)
  ]


def _autoapi(directive: SphinxDirective, name: str) -> list[str]:
  """The directive for a class or a function.

  Raises:
    KeyError: there is no such name in the sources.
  """
  documented = directive.env.autoapi_all_objects[name]  # type: ignore[attr-defined]
  _add_types(documented)
  return [f".. autoapi{documented.type}:: {name}", ""]


def _add_types(documented) -> None:
  """Makes arguments of a dataclass's attributes, with types and defaults.

  The sources have these in the class's body only. `documented` is autoapi's
  object, whose docstring napoleon has made a list of fields.
  """
  for field in documented.children:
    if field.type != "attribute" or not field.annotation:
      continue
    value = "" if field.value in (None, "") else f" = {field.value}"
    if len(value) > 40:  # a call that makes the default
      value = ""
    documented.docstring = documented.docstring.replace(
      f":ivar {field.name}: ",
      f":type {field.name}: ``{field.annotation}{value}``\n"
      f":param {field.name}: ",
    )


class PublicNames(SphinxDirective):
  """Every public name with its docstring, by module."""

  def run(self) -> list[nodes.Node]:
    self.env.note_dependency(str(_ARCHITECTURE))
    sections: dict[str, nodes.section] = {}
    for name in _public_names():
      module = name.rpartition(".")[0]
      section = sections.setdefault(module, _section(module))
      text = _autoapi(self, name)
      self.state.nested_parse(StringList(text, self.env.docname), 0, section)
    return list(sections.values())


def _skip(app, what: str, name: str, documented, skip: bool, options) -> bool:
  """Leaves out attributes, which their class's docstring describes."""
  del app, name, options
  return skip or what == "attribute" or not documented.docstring


def setup(app: Sphinx) -> dict[str, bool]:
  """Called by Sphinx."""
  app.add_directive("command-line", CommandLine)
  app.add_directive("gin-files", GinFiles)
  app.add_directive("gin-names", GinNames)
  app.add_directive("public-names", PublicNames)
  app.connect("autoapi-skip-member", _skip)
  return {"parallel_read_safe": True}
