"""Writing to the ledger together what many workers have noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dss_jax.rationales.ledger import Ledger


class Commits:
  """Flushes the ledger once for all that was noted in a turn of the loop.

  Args:
    ledger: open for writing.
    failed: called with what the ledger raises.
  """

  def __init__(self, ledger: Ledger, failed: Callable[[Exception], None]):
    self._ledger = ledger
    self._failed = failed
    self._loop = asyncio.get_running_loop()
    # Set when the ledger has written what all workers noted until then.
    self._next: asyncio.Event | None = None
    self._error: Exception | None = None

  async def wait(self) -> None:
    """Waits until the ledger has written what was noted so far.

    The next turn of the event loop writes it, together with what every other
    worker has noted by then: often the answer to the last request and the
    attempt of the next one.
    """
    await self.schedule().wait()
    if self._error is not None:
      raise self._error

  def schedule(self) -> asyncio.Event:
    """Has the next turn of the loop write; the event says that it has."""
    if self._next is None:
      self._next = asyncio.Event()
      self._loop.call_soon(self._flush)
    return self._next

  def _flush(self) -> None:
    done, self._next = self._next, None
    assert done is not None
    try:
      self._ledger.flush()
    except Exception as error:
      self._error = error
      self._failed(error)
    done.set()
