"""Records that stage 1 reads as often as it has rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from dss_jax.datasets.records import Record


@dataclasses.dataclass(frozen=True)
class RecordSource:
  """Records that can be read any number of times.

  Attributes:
    name: name for titles, such as "cqa, train".
    read: makes a new iterator over the records, in a fixed order.
    count: number of records.
  """

  name: str
  read: Callable[[], Iterator[Record]]
  count: int

  @classmethod
  def of_records(cls, name: str, records: Sequence[Record]) -> RecordSource:
    """Records that are in memory."""
    return cls(name, lambda: iter(records), len(records))
