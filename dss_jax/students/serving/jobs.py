"""A request as the queue sees it, and how it can end without an answer."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple


class Wanted(NamedTuple):
  """What is asked for; inputs that want the same are computed together.

  Attributes:
    outputs: a part of OUTPUTS.
    num_best: how many alternatives; 1 for none but the prediction itself.
  """

  outputs: tuple[str, ...]
  num_best: int = 1


class QueueFull(Exception):
  """Too much work waits already, for the queue or to be answered in time.

  Attributes:
    retry_after_s: when there may be room again.
  """

  def __init__(self, retry_after_s: float):
    super().__init__("the queue is full")
    self.retry_after_s = retry_after_s


class Stopped(Exception):
  """The server does not take work yet, or no longer."""


class Expired(Exception):
  """The request's time was up before it was computed."""


class Failed(Exception):
  """The backend failed on this request's inputs, or altogether."""


@dataclasses.dataclass(eq=False)
class Job:
  """The inputs of one request.

  Attributes:
    inputs: texts.
    wanted: what is asked for.
    arrived: time of arrival, by the batcher's clock.
    deadline: when its time is up.
    future: becomes the predictions, in the order of `inputs`.
    name: the request's name in the log.
    results: predictions, by the positions of their inputs.
    started: when its first input was taken; None before.
    taken: how many inputs were taken into batches.
  """

  inputs: Sequence[str]
  wanted: Wanted
  arrived: float
  deadline: float
  future: asyncio.Future[list[Any]]
  name: str = ""
  results: dict[int, Any] = dataclasses.field(default_factory=dict)
  started: float | None = None
  taken: int = 0

  @property
  def waiting(self) -> int:
    return len(self.inputs) - self.taken
