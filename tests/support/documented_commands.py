"""The `dss-jax` commands of README and of the pages of docs, as readers type them."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator

# Pages with commands, besides those of docs/.
_PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
_SHELL_FENCES = ("", "bash", "console", "sh", "shell")
# It follows the start of the line, a space, a quotation mark or a folder; what
# a command prints has a colon after its name.
_COMMAND = re.compile(r"(?:^|[\s'/])dss-jax (?!\w+:)(?=\w|--)")
_ENDS = set("|;<>&")


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of a page.

  Attributes:
    page: relative to the repository.
    words: what follows `dss-jax`; without the dots that stand for further ones.
    is_whole: nothing was left out of it.
  """

  page: str
  words: tuple[str, ...]
  is_whole: bool

  @property
  def text(self) -> str:
    dots = () if self.is_whole else ("...",)
    return " ".join(("dss-jax", *self.words, *dots))


def pages(repository: pathlib.Path) -> list[pathlib.Path]:
  """README, docs and the examples' own pages."""
  folders = (repository / "docs", repository / "examples")
  found = [repository / name for name in _PAGES]
  for folder in folders:
    found += sorted(folder.rglob("*.md"))
  return found


def of_page(page: pathlib.Path, repository: pathlib.Path) -> list[Command]:
  """The commands of a page's blocks of code, in their order."""
  name = page.relative_to(repository).as_posix()
  return [
    _command(name, found)
    for line in _lines(page.read_text(encoding="utf-8"))
    if (found := _words(line))
  ]


def in_text(page: pathlib.Path, repository: pathlib.Path) -> list[Command]:
  """Those that a page's sentences name, such as `dss-jax train --plan`."""
  name = page.relative_to(repository).as_posix()
  text = page.read_text(encoding="utf-8")
  return [
    _command(name, [*" ".join(found.split()).split(" "), "..."])
    for found in re.findall(r"`dss-jax ([^`]+)`", text)
  ]


def of_help(mode: str, epilog: str) -> list[Command]:
  """The examples below the help of a mode."""
  text = re.sub(r"^  ", "    ", epilog, flags=re.MULTILINE)
  return [
    _command(f"dss-jax {mode} --help", found)
    for line in _lines(text)
    if (found := _words(line))
  ]


def gin_blocks(page: pathlib.Path) -> list[str]:
  """The gin files that a page shows whole: they begin with their names."""
  text = page.read_text(encoding="utf-8")
  return re.findall(r"```gin\n(# \w+\.gin\n.*?)```", text, re.DOTALL)


def _command(page: str, words: list[str]) -> Command:
  rest = tuple(word for word in words if word != "...")
  return Command(page, rest, is_whole=len(rest) == len(words))


def _lines(text: str) -> Iterator[str]:
  """The lines of code blocks, continued ones joined."""
  fence: str | None = None
  begun = ""
  for line in text.splitlines():
    found = re.match(r"\s*```(\w*)", line)
    if found:
      fence = found[1] if fence is None else None
      begun = ""
      continue
    if not (
      fence in _SHELL_FENCES if fence is not None else line[:4] == "    "
    ):
      begun = ""
      continue
    begun += line.strip()
    if begun.endswith("\\"):
      begun = f"{begun[:-1].rstrip()} "
    else:
      yield begun
      begun = ""


def _words(line: str) -> list[str] | None:
  """What follows `dss-jax` in a line, up to the end of the command."""
  found = _COMMAND.search(line)
  if found:
    rest = line[found.end() :]
    if line[found.start()] == "'":
      rest = rest.partition("'")[0]
  elif line.startswith("--gin"):  # to be added to a training's flags
    rest = f"train ... {line}"
  else:
    return None
  lexer = shlex.shlex(rest, posix=True, punctuation_chars="|;<>&")
  lexer.whitespace_split = True
  lexer.commenters = "#"
  words = []
  for word in lexer:
    if set(word) <= _ENDS:
      break
    words.append(word)
  return words
