"""Streams of items, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def in_groups(items: Iterable[Item], size: int = 500) -> Iterator[list[Item]]:
  """The items in lists of `size`, the last one perhaps shorter.

  The default is for lookups of keys in the ledger.
  """
  group: list[Item] = []
  for item in items:
    group.append(item)
    if len(group) == size:
      yield group
      group = []
  if group:
    yield group
