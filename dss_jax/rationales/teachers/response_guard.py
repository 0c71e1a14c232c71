"""What stands between a teacher's server and us: bounds on its answers.

A body is read up to a bound, uncompressed, and a connection over which more
came than the answer is not used again.
"""

from __future__ import annotations

import functools
from typing import Any

from dss_jax.rationales.teachers import TransientError

# Far more than any completion; a body beyond is not read.
MAX_RESPONSE_BYTES = 32 * 2**20


async def guard_response(response: Any) -> None:
  """Bounds what is read of a response, and keeps it from the next request."""
  if response.headers.get("content-encoding", "identity") != "identity":
    raise TransientError(
      "bad_response", "the answer is compressed, which was not asked for"
    )
  response.stream = _guarded_stream()(response)


@functools.cache
def _guarded_stream() -> Any:
  """The class of such bodies; its base is imported only when needed."""
  import httpx2

  class Guarded(httpx2.AsyncByteStream):
    def __init__(self, response: Any):
      self._stream = response.stream
      self._network = response.extensions.get("network_stream")

    async def __aiter__(self):
      size = 0
      async for chunk in self._stream:
        size += len(chunk)
        if size > MAX_RESPONSE_BYTES:
          raise TransientError(
            "bad_response", f"more than {MAX_RESPONSE_BYTES} bytes came back"
          )
        yield chunk
      # A server that sends more than the answer (the same one twice, say)
      # would have the rest of it taken for the answer to whatever is sent
      # over this connection next.
      if _is_more_there(self._stream) and self._network is not None:
        await self._network.aclose()

    async def aclose(self) -> None:
      await self._stream.aclose()

  return Guarded


def _is_more_there(stream: Any) -> bool:
  """Whether a connection has read beyond the end of its response.

  The HTTP library does not tell in public. Where its insides are not the ones
  known here the answer is yes: every connection is then used only once, which
  is slower and as safe.
  """
  try:
    body = stream._stream._httpcore_stream._stream
    buffered, _ = body._connection._h11_state.trailing_data
  except AttributeError:
    return True
  return bool(buffered)
