"""An OpenAI-compatible server on the loopback that fails in every known way.

    python misbehaving_server.py --log FILE [--faults 0.35] [--seed 0]

It prints its port on one line, then serves until it is killed, with nothing but
the standard library. What it does with a request depends on the seed, the body
and how often it has seen that body, not on time or order. It writes each
request to the log as a line of JSON before it answers: `{"id":
<X-Client-Request-Id>, "prompt": ..., "fault": ..., "open": <number of requests
under way>}`.

The answer to a prompt is `answer to <prompt>`, so that answers that reach the
wrong request are noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import email.utils
import hashlib
import json
import random
import time

FAULTS = (
  "429_with_seconds",
  "429_with_date",
  "429",
  "500",
  "503_with_seconds",
  "timeout",
  "drop",
  "drop_mid_body",
  "invalid_json",
  "empty_choices",
  "truncated",
  "duplicate",
  "slow_drip",
  "endless_drip",
  "no_text",
)
# The client gets a good answer all the same.
HARMLESS = {"duplicate", "slow_drip"}


class Server:
  """See the module.

  Args:
    log: file to append to.
    faults: share of requests that do not simply get an answer.
    seed: of the faults.
    delay: seconds before an answer.
    only: the kinds of faults to draw from.
    retry_after: seconds that 429 asks to wait.
    hang: seconds after which a request without an answer is dropped.
    usage: whether answers tell tokens.
  """

  def __init__(self, options: argparse.Namespace):
    self._options = options
    self._kinds = options.only.split(",") if options.only else list(FAULTS)
    self._log = (
      open(options.log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
      if options.log
      else None
    )
    self._seen: collections.Counter[bytes] = collections.Counter()
    self._open = 0

  async def serve(self) -> None:
    server = await asyncio.start_server(
      self._connection, "127.0.0.1", 0, limit=2**22, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
      await server.serve_forever()

  async def _connection(self, reader, writer) -> None:
    with contextlib.suppress(
      ConnectionError, asyncio.IncompleteReadError, TimeoutError
    ):
      while True:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
          name.lower(): value.strip()
          for name, _, value in (line.partition(":") for line in lines[1:])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._open += 1
        try:
          keeps_open = await self._answer(lines[0], headers, body, writer)
        finally:
          self._open -= 1
        if not keeps_open:
          break
    writer.transport.abort()

  def _fault(self, body: bytes) -> str | None:
    if not self._options.faults:
      return None
    digest = hashlib.sha256(body).digest()
    self._seen[digest] += 1
    draw = random.Random(
      f"{self._options.seed} {digest.hex()} {self._seen[digest]}"
    )
    if draw.random() >= self._options.faults:
      return None
    return draw.choice(self._kinds)

  async def _answer(self, line, headers, body: bytes, writer) -> bool:
    """Answers one request; False ends the connection."""
    asked = json.loads(body)
    prompt = asked.get("prompt") or asked["messages"][-1]["content"]
    fault = self._fault(body)
    if self._log is not None:
      entry = {
        "id": headers.get("x-client-request-id"),
        "prompt": prompt,
        "fault": fault,
        "open": self._open,
      }
      self._log.write(json.dumps(entry) + "\n")
    if self._options.delay:
      await asyncio.sleep(self._options.delay)
    if "messages" in asked:
      choice = {"message": {"role": "assistant"}, "finish_reason": "stop"}
      choice["message"]["content"] = f"answer to {prompt}"
    else:
      choice = {"text": f"answer to {prompt}", "finish_reason": "stop"}
    answer = {
      "id": "x",
      "object": "chat.completion",
      "created": 1,
      "model": f"{asked['model']}-001",
      "choices": [{"index": 0, **choice}],
    }
    if self._options.usage:
      answer["usage"] = {
        "prompt_tokens": len(prompt) // 4,
        "completion_tokens": 7,
        "total_tokens": len(prompt) // 4 + 7,
      }
    if fault is None:
      writer.write(_response(200, json.dumps(answer).encode()))
      await writer.drain()
      return True
    return await self._misbehave(fault, answer, headers, writer)

  async def _misbehave(self, fault: str, answer, headers, writer) -> bool:
    good = _response(200, json.dumps(answer).encode())
    wait = self._options.retry_after
    if fault.startswith(("429", "503")):
      extra = ""
      if fault.endswith("seconds"):
        extra = f"Retry-After: {wait}\r\n"
      elif fault.endswith("date"):
        date = email.utils.formatdate(time.time() + wait, usegmt=True)
        extra = f"Retry-After: {date}\r\n"
      writer.write(_response(int(fault[:3]), _error("too many"), extra))
    elif fault == "500":
      # A careless server shows what it was sent.
      text = f"cannot handle {headers.get('authorization')}"
      writer.write(_response(500, _error(text)))
    elif fault == "timeout":
      await asyncio.sleep(self._options.hang)
      return False
    elif fault == "drop":
      return False
    elif fault == "drop_mid_body":
      writer.write(good[: len(good) - 40])
      await writer.drain()
      return False
    elif fault == "invalid_json":
      writer.write(_response(200, b"<html>Bad gateway</html>"))
    elif fault == "empty_choices":
      writer.write(
        _response(200, json.dumps(answer | {"choices": []}).encode())
      )
    elif fault == "no_text":
      writer.write(_response(200, b'{"choices": [{"index": 0}]}'))
    elif fault == "truncated":
      writer.write(_response(200, json.dumps(answer).encode()[:-30]))
    elif fault == "duplicate":
      writer.write(good + good)
    elif fault in ("slow_drip", "endless_drip"):
      pause = self._options.hang if fault == "endless_drip" else 0.1
      size = len(good) // 6 + 1
      for start in range(0, len(good), size):
        writer.write(good[start : start + size])
        await writer.drain()
        await asyncio.sleep(pause / 6)
    await writer.drain()
    return True


def _error(message: str) -> bytes:
  return json.dumps({"error": {"message": message}}).encode()


def _response(status: int, body: bytes, extra: str = "") -> bytes:
  head = (
    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(body)}\r\n{extra}\r\n"
  )
  return head.encode() + body


def parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--log")
  parser.add_argument("--faults", type=float, default=0.35)
  parser.add_argument("--only", default="")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--delay", type=float, default=0.0)
  parser.add_argument("--retry_after", type=float, default=0.05)
  parser.add_argument("--hang", type=float, default=3.0)
  parser.add_argument("--usage", type=int, default=1)
  return parser.parse_args()


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(Server(parse_args()).serve())
