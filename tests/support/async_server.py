"""A server in the event loop of a test, which ends with its connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Handler = Callable[
  [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]


@contextlib.asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[int]:
  """Serves on the loopback; yields the port.

  Args:
    handler: what is done with a connection; one that is lost ends it.
    options: of `asyncio.start_server`.
  """
  under_way: set[Any] = set()

  async def handle(reader, writer):
    under_way.add(asyncio.current_task())
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
      await handler(reader, writer)
    writer.close()
    with contextlib.suppress(ConnectionError, OSError):
      await writer.wait_closed()

  server = await asyncio.start_server(handle, "127.0.0.1", 0, **options)
  try:
    yield server.sockets[0].getsockname()[1]
  finally:
    server.close()
    await asyncio.wait_for(asyncio.gather(*under_way), 10)
