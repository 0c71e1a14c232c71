"""What asking a teacher costs in addition to the waiting: throughput and memory.

    python benchmarks/teacher_client.py                     # throughput
    python benchmarks/teacher_client.py --memory_rows 100000

A server in a process of its own answers each request after 50 ms. `ask` (with
ledger, retries and all) is compared with the ideal, concurrency / 50 ms, and
with bare loops over the same client, in turns within one run:

  bare   `await client.chat.completions.create(...)` in as many workers
  post   `await client.post(...)`, the client's untyped method, which skips the
         checks of every field; `ask` uses it too

Needs the extra `teacher`; no JAX, no device, no network but the loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import measuring

from dss_jax.rationales.asking import request_loop
from dss_jax.rationales.extraction_plan import AskOptions, Endpoint
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Request, Sampling
from dss_jax.rationales.teachers.openai_endpoint import OpenAIEndpoint

# About as long as ten exemplars.
_SHOTS = "Q: Where would you find a jellyfish?\nA: In the sea. " * 40


class _Answers(asyncio.Protocol):
  """HTTP/1.1, as little of it as the client needs."""

  delay = 0.05

  def connection_made(self, transport):
    assert isinstance(transport, asyncio.Transport)
    self._transport = transport
    self._buffer = b""

  def data_received(self, data):
    self._buffer += data
    while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
      head = self._buffer[:end].lower()
      start = head.index(b"content-length:") + 15
      length = int(head[start:].split(b"\r\n", 1)[0])
      if len(self._buffer) < end + 4 + length:
        return
      self._buffer = self._buffer[end + 4 + length :]
      if self.delay:
        asyncio.get_running_loop().call_later(self.delay, self._answer)
      else:
        self._answer()

  def _answer(self):
    if not self._transport.is_closing():
      self._transport.write(_ANSWER)


def _answer() -> bytes:
  text = "The answer must live in the sea. So the answer is (a) ocean."
  message = {"role": "assistant", "content": text}
  body = json.dumps(
    {
      "id": "chatcmpl-1",
      "object": "chat.completion",
      "created": 1,
      "model": "m-001",
      "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
      "usage": {
        "prompt_tokens": 500,
        "completion_tokens": 16,
        "total_tokens": 516,
      },
    }
  ).encode()
  head = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(body)}\r\n\r\n"
  )
  return head.encode() + body


_ANSWER = _answer()


async def _serve(delay: float) -> None:
  _Answers.delay = delay
  loop = asyncio.get_running_loop()
  server = await loop.create_server(_Answers, "127.0.0.1", 0, backlog=1024)
  print(server.sockets[0].getsockname()[1], flush=True)
  async with server:
    await server.serve_forever()


def requests(count: int, first: int = 0) -> Iterator[Request]:
  """Chats of about 500 tokens, each another one."""
  sampling = Sampling(temperature=0.7, max_tokens=256, stop=("\n\n",))
  for i in range(first, first + count):
    turns = (("system", _SHOTS), ("user", f"Question number {i}?"))
    yield Request("m", turns, sampling)


async def _bare(endpoint, count: int, concurrency: int, typed: bool) -> None:
  """As many workers, one loop, no ledger, no retries."""
  import httpx2

  client = endpoint.client()
  waiting = requests(count)

  async def worker():
    for request in waiting:
      if typed:
        await client.chat.completions.create(**request.body())
      else:
        response = await client.post(
          "/chat/completions", cast_to=httpx2.Response, body=request.body()
        )
        json.loads(response.content)

  await asyncio.gather(*(worker() for _ in range(concurrency)))


async def _ask(endpoint, count: int, concurrency: int, folder: str) -> None:
  path = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "ledger.sqlite"
  with Ledger(path) as ledger:
    options = AskOptions(concurrency=concurrency)
    summary = await request_loop.ask(requests(count), endpoint, ledger, options)
  assert summary.answered == count == summary.attempts, summary


async def _throughput(url: str, args, folder: str) -> dict:
  found = {}
  for concurrency in args.concurrency:
    endpoint = OpenAIEndpoint(Endpoint("t", "m", base_url=url))
    runs = {
      "bare": lambda n, e=endpoint, c=concurrency: _bare(e, n, c, True),
      "post": lambda n, e=endpoint, c=concurrency: _bare(e, n, c, False),
      "ask": lambda n, e=endpoint, c=concurrency: _ask(e, n, c, folder),
    }
    count = max(int(args.seconds * concurrency / args.delay), concurrency)
    count = min(count, args.most_requests)
    for run in runs.values():
      await run(2 * concurrency)  # connections open, code warm
    rates = {name: [] for name in runs}
    cpu = {name: [] for name in runs}
    for _ in range(args.repeats):
      for name, run in runs.items():
        start, start_cpu = time.perf_counter(), time.process_time()
        await run(count)
        rates[name].append(count / (time.perf_counter() - start))
        cpu[name].append(1e3 * (time.process_time() - start_cpu) / count)
    await endpoint.close()
    ideal = concurrency / args.delay
    median = {name: statistics.median(r) for name, r in rates.items()}
    found[str(concurrency)] = {
      "requests": count,
      "ideal_per_s": ideal,
      "per_s": median,
      "all_per_s": rates,
      "cpu_ms": {n: statistics.median(c) for n, c in cpu.items()},
      "all_cpu_ms": cpu,
      "ask_of_ideal": median["ask"] / ideal,
      "ask_of_bare": median["ask"] / median["bare"],
      "ask_of_post": median["ask"] / median["post"],
    }
  return found


def _resident_mb() -> float:
  """Memory of this process now (Linux) or at its peak (elsewhere)."""
  try:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
  except OSError:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


async def _memory(url: str, args, folder: str) -> dict:
  """Resident memory while `ask` goes through many rows."""
  sizes: dict[int, float] = {}
  marks = [args.memory_rows * k // 10 for k in range(1, 11)]

  def watched() -> Iterator[Request]:
    for i, request in enumerate(requests(args.memory_rows), start=1):
      if i in marks:
        sizes[i] = _resident_mb()
      yield request

  path = pathlib.Path(folder) / "memory.sqlite"
  endpoint = OpenAIEndpoint(Endpoint("t", "m", base_url=url))
  with Ledger(path) as ledger:
    options = AskOptions(concurrency=64)
    summary = await request_loop.ask(watched(), endpoint, ledger, options)
  await endpoint.close()
  assert summary.answered == args.memory_rows, summary
  return {
    "rows": args.memory_rows,
    "resident_mb": sizes,
    "growth_mb": sizes[marks[-1]] - sizes[marks[0]],
    "rows_per_s": args.memory_rows / summary.seconds,
    "ledger_mb": path.stat().st_size / 2**20,
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 64])
  parser.add_argument("--delay", type=float, default=0.05, help="seconds")
  parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
  parser.add_argument("--most_requests", type=int, default=2000)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--memory_rows", type=int, default=0)
  parser.add_argument("--json", help="file to write")
  parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    asyncio.run(_serve(args.delay))
    return
  delay = 0.0 if args.memory_rows else args.delay
  with (
    tempfile.TemporaryDirectory() as folder,
    subprocess.Popen(
      [sys.executable, __file__, "--serve", f"--delay={delay}"],
      stdout=subprocess.PIPE,
      text=True,
    ) as server,
  ):
    try:
      assert server.stdout is not None
      url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
      measure = _memory if args.memory_rows else _throughput
      found = asyncio.run(measure(url, args, folder))
    finally:
      server.kill()
  report = {
    **measuring.description(packages=("openai",)),
    "memory" if args.memory_rows else "throughput": found,
  }
  measuring.write_json(args.json, report)
  if args.memory_rows:
    for rows, size in found["resident_mb"].items():
      print(f"{rows:>9,} rows  {size:7.1f} MB")
    print(
      f"growth {found['growth_mb']:.1f} MB, {found['rows_per_s']:.0f} rows/s,"
      f" ledger {found['ledger_mb']:.1f} MB"
    )
    return
  for concurrency, row in found.items():
    print(f"{concurrency}-way, ideal {row['ideal_per_s']:.0f}/s")
    for name, rates in row["all_per_s"].items():
      print(
        f"  {name:5} {measuring.spread(rates, 1)}/s"
        f"  {row['cpu_ms'][name]:.2f} CPU ms"
      )
    print(
      f"  ask: {row['ask_of_ideal']:.1%} of ideal,"
      f" {row['ask_of_bare']:.1%} of bare, {row['ask_of_post']:.1%} of post"
    )
  print(f"load average {report['load'][0]:.1f} on {report['cores']} cores")


if __name__ == "__main__":
  measuring.run(main)
