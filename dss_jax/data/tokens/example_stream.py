"""Examples one after the other, of corpora too large to keep."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np


class StreamExample(NamedTuple):
  """One example of a stream.

  Attributes:
    subtask: position in the stream's `subtask_names`.
    inputs: [length] int32 token ids, end id included.
    targets: [length] int32 token ids, end id included.
    weight: its weight in the loss.
  """

  subtask: int
  inputs: np.ndarray
  targets: np.ndarray
  weight: float


class Stream(Protocol):
  """An endless sequence of examples that can be opened anywhere."""

  @property
  def name(self) -> str: ...

  @property
  def split(self) -> str: ...

  @property
  def subtask_names(self) -> tuple[str, ...]: ...

  @property
  def rates(self) -> tuple[float, ...]: ...

  @property
  def fingerprint(self) -> str: ...

  @property
  def vocabulary(self) -> Any: ...

  def open(self, skip: int = 0) -> Iterator[StreamExample]:
    """The examples from number `skip` on, the same ones each time."""
    ...
