"""One table of all that does not fit between two trees of parameters."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

from dss_jax.base.errors import UserError, one_line, printable

Shape = tuple[int, ...]

_LAYER = re.compile(r"(layers_|block\.)(\d+)")
# More lines than this are no help; a model has under twenty kinds of arrays.
_MAX_LINES = 60


@dataclasses.dataclass(frozen=True)
class Difference:
  """One line of the table.

  Attributes:
    name: an array, or several as `encoder/layers_{0-11}/...`.
    found: what is there; None where nothing is.
    wanted: what should be there; None where nothing should.
  """

  name: str
  found: str | None
  wanted: str | None

  @property
  def problem(self) -> str:
    if self.found is None:
      return "missing"
    return "extra" if self.wanted is None else "differs"


def check(
  found: Mapping[str, Shape],
  wanted: Mapping[str, Shape],
  what: str,
  *,
  columns: tuple[str, str],
  remedy: str,
  more: Sequence[Difference] = (),
  fields: Sequence[str] = (),
) -> None:
  """Compares two trees by their shapes.

  Args:
    found: shape of each array that is there, by its path.
    wanted: shape of each array that should be there.
    what: begins the message: what does not fit what.
    columns: names of the two trees in the table.
    remedy: ends the message: what to do.
    more: further lines of the table, which come first.
    fields: the options to change.

  Raises:
    UserError: with the table as its details, where anything differs.
  """
  differences = [*more, *compare(found, wanted)]
  if not differences:
    return
  first = differences[0]
  example = f"{first.name} {first.problem}"
  if first.problem == "differs":
    example = (
      f"{first.name} is {first.found} in {columns[0]}, {first.wanted} in"
      f" {columns[1]}"
    )
  counts = collections.Counter(each.problem for each in differences)
  summary = ", ".join(
    f"{count} {'of another shape' if problem == 'differs' else problem}"
    for problem, count in counts.items()
  )
  raise UserError(
    f"{what} ({summary}; {one_line(printable(example))}): {remedy}",
    details=_table(differences, columns),
    fields=fields,
  )


def compare(
  found: Mapping[str, Shape], wanted: Mapping[str, Shape]
) -> list[Difference]:
  """All that differs, with one line for all layers where it is the same."""
  groups: dict[tuple, list[int]] = {}
  for name in sorted({*found, *wanted}):
    shapes = found.get(name), wanted.get(name)
    if shapes[0] == shapes[1]:
      continue
    layer = _LAYER.search(name)
    kind = _LAYER.sub(r"\1{}", name, count=1)
    number = int(layer.group(2)) if layer else -1
    groups.setdefault((kind, *shapes), []).append(number)
  differences = [
    Difference(
      _layers_name(kind, numbers),
      *(None if shape is None else str(list(shape)) for shape in shapes),
    )
    for (kind, *shapes), numbers in groups.items()
  ]
  order = ("missing", "extra", "differs")
  return sorted(differences, key=lambda each: order.index(each.problem))


def _layers_name(kind: str, numbers: list[int]) -> str:
  """`encoder/layers_{0-3}/...` for `encoder/layers_{}/...` and its layers."""
  first, last = min(numbers), max(numbers)
  if first < 0:
    return kind
  layers = str(first)
  if first < last:
    between = "-" if last - first + 1 == len(numbers) else ".."
    layers = f"{{{first}{between}{last}}}"
  return kind.replace("{}", layers, 1)


def _table(differences: Sequence[Difference], columns: tuple[str, str]) -> str:
  """The differences as text, aligned."""
  cells = [("parameter", "problem", *columns)]
  for line in differences[:_MAX_LINES]:
    name = printable(one_line(line.name, longest=100))
    cells.append((name, line.problem, line.found or "-", line.wanted or "-"))
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    "  ".join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in cells
  ]
  if len(differences) > _MAX_LINES:
    lines.append(f"... and {len(differences) - _MAX_LINES} more")
  return "\n".join(lines)
