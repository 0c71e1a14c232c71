"""One table of all that does not fit between two trees of parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from dss_jax.base.errors import UserError, one_line, printable

Shape = tuple[int, ...]

_LAYER = re.compile(r"(layers_|block\.)(\d+)")
# More rows than this are no help; a model has under twenty kinds of arrays.
_MAX_ROWS = 60


@dataclasses.dataclass(frozen=True)
class Row:
  """Something that differs.

  Attributes:
    name: of the array, or of several as `encoder/layers_{0-11}/...`.
    found: what is there; None where nothing is.
    wanted: what should be; None where nothing should.
  """

  name: str
  found: str | None
  wanted: str | None

  @property
  def problem(self) -> str:
    if self.found is None:
      return "missing"
    return "extra" if self.wanted is None else "differs"


def compare(
  found: Mapping[str, Shape], wanted: Mapping[str, Shape]
) -> list[Row]:
  """All that differs, layers of which the same is true in one row."""
  groups: dict[tuple, list[int]] = {}
  for name in sorted({*found, *wanted}):
    here, there = found.get(name), wanted.get(name)
    if here == there:
      continue
    layer = _LAYER.search(name)
    kind = _LAYER.sub(r"\1{}", name, count=1)
    number = int(layer.group(2)) if layer else -1
    groups.setdefault((kind, here, there), []).append(number)
  rows = [
    Row(_layers_name(kind, numbers), _text(here), _text(there))
    for (kind, here, there), numbers in groups.items()
  ]
  order = {"missing": 0, "extra": 1, "differs": 2}
  return sorted(rows, key=lambda row: order[row.problem])


def _layers_name(kind: str, numbers: Sequence[int]) -> str:
  if numbers[0] < 0:
    return kind
  numbers = sorted(numbers)
  first, last = numbers[0], numbers[-1]
  if len(numbers) == 1:
    return kind.replace("{}", str(first), 1)
  between = "-" if last - first + 1 == len(numbers) else ".."
  return kind.replace("{}", f"{{{first}{between}{last}}}", 1)


def _text(shape: Shape | None) -> str | None:
  return None if shape is None else str(list(shape))


def summary(rows: Iterable[Row]) -> str:
  """How many rows of each kind: `2 missing, 1 extra`."""
  counts: dict[str, int] = {}
  for row in rows:
    counts[row.problem] = counts.get(row.problem, 0) + 1
  words = {
    "missing": "missing",
    "extra": "extra",
    "differs": "of another shape",
  }
  return ", ".join(f"{n} {words[problem]}" for problem, n in counts.items())


def table(rows: Sequence[Row], columns: tuple[str, str]) -> str:
  """The rows as text, aligned.

  Args:
    rows: what differs.
    columns: what `found` and `wanted` are of.
  """
  cells = [("parameter", "problem", *columns)]
  for row in rows[:_MAX_ROWS]:
    name = printable(one_line(row.name, longest=100))
    cells.append((name, row.problem, row.found or "-", row.wanted or "-"))
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    "  ".join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in cells
  ]
  if len(rows) > _MAX_ROWS:
    lines.append(f"... and {len(rows) - _MAX_ROWS} more")
  return "\n".join(lines)


def check(
  found: Mapping[str, Shape],
  wanted: Mapping[str, Shape],
  what: str,
  *,
  columns: tuple[str, str],
  remedy: str,
  more: Sequence[Row] = (),
) -> None:
  """Compares two trees by their shapes.

  Args:
    found: shape of each array that is there, by its path.
    wanted: shape of each that should be.
    what: begins the message: what does not fit what.
    columns: names of the two trees in the table.
    remedy: ends the message: what to do.
    more: further rows of the table.

  Raises:
    UserError: with the table as its details, where anything differs.
  """
  rows = [*more, *compare(found, wanted)]
  if not rows:
    return
  first = rows[0]
  example = f"{first.name} {first.problem}"
  if first.problem == "differs":
    example = (
      f"{first.name} is {first.found} in {columns[0]}, {first.wanted} in"
      f" {columns[1]}"
    )
  raise UserError(
    f"{what} ({summary(rows)}; {one_line(printable(example))}): {remedy}",
    details=table(rows, columns),
  )
