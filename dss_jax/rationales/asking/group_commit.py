"""One write to the ledger for all that many workers have noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dss_jax.rationales.asking.job_queue import set_done
from dss_jax.rationales.ledger import Ledger


class GroupCommit:
  """Flushes the ledger once a turn of the event loop, for whoever asked.

  Make it where that loop runs.

  Args:
    ledger: to flush.
    on_error: told why the ledger cannot be written; whoever waits for that is
      cancelled.
  """

  def __init__(self, ledger: Ledger, on_error: Callable[[Exception], None]):
    self._ledger = ledger
    self._on_error = on_error
    self._loop = asyncio.get_running_loop()
    self._waiters: list[asyncio.Future[None]] = []
    self._is_due = False

  async def committed(self) -> None:
    """Waits until what was noted so far is written.

    The next turn of the event loop writes it, together with what every other
    worker has noted by then: often the answer to the last request and the
    attempt of the next one.
    """
    waiter = self._loop.create_future()
    self._waiters.append(waiter)
    self.commit()
    await waiter

  def commit(self) -> None:
    """As `committed`, without waiting."""
    if not self._is_due:
      self._is_due = True
      self._loop.call_soon(self._flush)

  def _flush(self) -> None:
    waiters, self._waiters = self._waiters, []
    self._is_due = False
    try:
      self._ledger.flush()
    except Exception as error:
      self._on_error(error)
      for waiter in waiters:
        if not waiter.done():
          waiter.cancel()
      return
    for waiter in waiters:
      set_done(waiter)
