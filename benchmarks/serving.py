"""What serving costs in addition to computing: throughput and latency under load.

    python benchmarks/serving.py --model_dir=runs/taxonli_dss
    python benchmarks/serving.py --http_only        # the HTTP layer alone

Starts `dss-jax serve` on the loopback and closed-loop clients in a process of
their own: each sends its next request when the last is answered, over a
connection that it keeps; one that is answered 429 waits as long as the answer
says. Their answers are compared with those of the predictor itself. Measured
first, on the same inputs in batches of the same size: the predictor alone, and
`dss-jax infer`, from file to file, less what it takes to start.

Needs the extra `serve`; no network but the loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import measuring

PACKAGES = ("jax", "starlette", "uvicorn", "httptools")

_ROOT = pathlib.Path(__file__).resolve().parent.parent


# ------------------------------------------------------------------- clients


class _Client(asyncio.Protocol):
  """HTTP/1.1, as little of it as the server needs."""

  def __init__(self):
    self._buffer = b""
    self._answer: asyncio.Future[tuple[int, bytes, bytes]] | None = None

  def connection_made(self, transport):
    assert isinstance(transport, asyncio.Transport)
    self._transport = transport

  def data_received(self, data):
    self._buffer += data
    end = self._buffer.find(b"\r\n\r\n")
    if end < 0:
      return
    head = self._buffer[:end].lower()
    start = head.index(b"content-length:") + 15
    length = int(head[start:].split(b"\r\n", 1)[0])
    if len(self._buffer) < end + 4 + length:
      return
    body = self._buffer[end + 4 : end + 4 + length]
    self._buffer = self._buffer[end + 4 + length :]
    assert self._answer is not None
    self._answer.set_result((int(head[9:12]), head, body))

  def connection_lost(self, exc):
    if self._answer is not None and not self._answer.done():
      self._answer.set_exception(exc or ConnectionError("closed"))

  async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
    self._answer = asyncio.get_running_loop().create_future()
    self._transport.write(request)
    return await self._answer


def _requests(inputs: Sequence[str], outputs: Sequence[str]) -> list[bytes]:
  found = []
  for text in inputs:
    body = json.dumps({"input": text, "outputs": outputs}).encode()
    head = (
      "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
      "Content-Type: application/json\r\n"
      f"Content-Length: {len(body)}\r\n\r\n"
    )
    found.append(head.encode() + body)
  return found


async def _load(plan: dict[str, Any]) -> dict[str, Any]:
  """Runs closed-loop clients for some seconds."""
  loop = asyncio.get_running_loop()
  requests = _requests(plan["inputs"], plan["outputs"])
  expected = plan["labels"]
  order = itertools.cycle(range(len(requests)))
  statuses: collections.Counter[str] = collections.Counter()
  latencies: list[float] = []
  wrong = 0
  start = loop.time() + plan["ramp_s"]
  end = start + plan["seconds"]

  async def one(delay: float) -> None:
    nonlocal wrong
    await asyncio.sleep(delay)
    client: _Client | None = None
    while (sent := loop.time()) < end:
      position = next(order)
      try:
        if client is None:
          _, client = await loop.create_connection(
            _Client, plan["host"], plan["port"]
          )
        status, head, body = await client.ask(requests[position])
      except OSError:
        client = None
        statuses["connection"] += 1
        continue
      now = loop.time()
      if sent >= start:
        statuses[str(status)] += 1
      if status == 200:
        (found,) = json.loads(body)["predictions"]
        wrong += expected is not None and found["label"] != expected[position]
        if sent >= start:
          latencies.append(now - sent)
      elif status == 429:
        wait = int(head.split(b"retry-after:")[1].split(b"\r\n")[0])
        await asyncio.sleep(wait * random.uniform(1.0, 1.2))

  clients = plan["clients"]
  await asyncio.gather(
    *(one(plan["ramp_s"] * i / clients) for i in range(clients))
  )
  latencies.sort()
  asked = sum(statuses.values())
  return {
    "clients": clients,
    "requests": asked,
    "statuses": dict(statuses),
    "succeeded": statuses["200"] / asked,
    "wrong": wrong,
    "per_s": statuses["200"] / plan["seconds"],
    "latency_ms": {
      f"p{q}": 1e3 * latencies[int(len(latencies) * q / 100)]
      for q in (50, 95, 99)
      if latencies
    },
    "client_cpu_s": time.process_time(),
  }


# -------------------------------------------------------------------- server


@contextlib.contextmanager
def _server(command: Sequence[str]) -> Iterator[tuple[str, int, int]]:
  """A server of its own, ready; (host, port, process id)."""
  with subprocess.Popen(
    [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=_ROOT
  ) as process:
    try:
      assert process.stdout is not None
      port = 0
      for line in process.stdout:
        if "listening on" in line:
          port = int(line.rsplit(":", 1)[1])
        if "ready" in line:
          break
      else:
        sys.exit("the server did not start")
      yield "127.0.0.1", port, process.pid
    finally:
      process.terminate()
      if process.wait(60) != 0:
        print(f"the server ended with {process.returncode}", file=sys.stderr)


def _cpu_s(process_id: int) -> float:
  """CPU time of a process, where /proc tells."""
  try:
    stat = pathlib.Path(f"/proc/{process_id}/stat").read_text()
  except OSError:
    return float("nan")
  ticks = stat.rsplit(")", 1)[1].split()[11:13]
  return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _queue_peak(host: str, port: int) -> dict[str, float]:
  """The server's own numbers after a run."""
  import urllib.request

  with urllib.request.urlopen(f"http://{host}:{port}/metrics") as answer:
    lines = answer.read().decode().splitlines()
  values = dict(
    line.rsplit(" ", 1) for line in lines if not line.startswith("#")
  )
  count = float(values["dss_jax_batch_inputs_count"])
  return {
    "batches": count,
    "inputs_a_batch": float(values["dss_jax_batch_inputs_sum"]) / max(count, 1),
    "batch_ms": 1e3
    * float(values["dss_jax_batch_seconds_sum"])
    / max(count, 1),
  }


def _run_clients(
  address: tuple[str, int, int], args, clients: int, inputs, labels
) -> dict[str, Any]:
  host, port, process_id = address
  plan = {
    "host": host,
    "port": port,
    "clients": clients,
    "seconds": args.seconds,
    "ramp_s": args.ramp_s,
    "inputs": inputs,
    "labels": labels,
    "outputs": args.outputs.split(","),
  }
  with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    json.dump(plan, file)
    file.flush()
    before = _cpu_s(process_id)
    ended = subprocess.run(
      [sys.executable, __file__, "--load", file.name],
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    spent = _cpu_s(process_id) - before
  found = json.loads(ended.stdout)
  found["server_cpu_ms"] = 1e3 * spent / max(found["requests"], 1)
  return {**found, **_queue_peak(host, port)}


# --------------------------------------------------------------------- model


def _predict_alone(args) -> dict[str, Any]:
  """Labels and throughput of the predictor, in this process."""
  from dss_jax import main
  from dss_jax.cli import run_flags
  from dss_jax.students.predict_options import PredictOptions
  from dss_jax.students.serving import jobs, student_backend

  parser = main.make_parser()
  flags = parser.parse_args(["serve", f"--model_dir={args.model_dir}"])
  student = run_flags.open_student(flags)
  outputs = tuple(args.outputs.split(","))
  backend = student_backend.StudentBackend(
    student,
    outputs,
    PredictOptions(),
    student_backend.declared_batch_sizes(args.max_batch),
    [24],
  )
  backend.warm_up()
  inputs, wanted = _inputs(args), jobs.Wanted(outputs)
  labels = [p.label for p in backend.predict(inputs, wanted)]
  rates = []
  for _ in range(args.repeats):
    start, asked = time.perf_counter(), 0
    while time.perf_counter() - start < args.seconds / 2 / args.repeats:
      backend.predict(inputs, wanted)
      asked += len(inputs)
    rates.append(asked / (time.perf_counter() - start))
  return {"labels": labels, "per_s": sorted(rates)[len(rates) // 2]}


def _infer_per_s(args, predictor_per_s: float) -> float:
  """Rows a second of `dss-jax infer`, from two files of different lengths."""
  inputs = _inputs(args)
  more = int(predictor_per_s * args.seconds / 2)
  with tempfile.TemporaryDirectory() as folder:

    def seconds(rows: int) -> float:
      source = pathlib.Path(folder) / f"{rows}.jsonl"
      source.write_text(
        "".join(
          json.dumps({"input": text}) + "\n"
          for text in itertools.islice(itertools.cycle(inputs), rows)
        )
      )
      command = [sys.executable, "-m", "dss_jax.main", "infer", "--overwrite"]
      command += [
        f"--model_dir={args.model_dir}",
        f"--input={source}",
        f"--output={folder}/predictions.jsonl",
        f"--outputs={args.outputs}",
        f"--batch_size={args.max_batch}",
      ]
      start = time.perf_counter()
      subprocess.run(command, check=True, capture_output=True, cwd=_ROOT)
      return time.perf_counter() - start

    seconds(len(inputs))  # compiles what is kept on disk
    fewer = [seconds(len(inputs)), seconds(len(inputs) + more)]
    again = [seconds(len(inputs)), seconds(len(inputs) + more)]
  return more / (min(fewer[1], again[1]) - min(fewer[0], again[0]))


def _inputs(args) -> list[str]:
  """Inputs of the test split of the built-in data, all different."""
  from dss_jax import datasets
  from dss_jax.datasets import DataOptions

  if args.http_only:
    return [f"A poodle is in kitchen {i}." for i in range(args.num_inputs)]
  options = DataOptions(taxonli_num_test=args.num_inputs)
  records = datasets.load_split("taxonli", "test", options=options)
  return [record.input for record in records]


def _measure(args) -> dict[str, Any]:
  server = [
    "--port=0",
    f"--max_batch={args.max_batch}",
    f"--max_queue={args.max_queue}",
  ]
  if args.http_only:
    command = [str(_ROOT / "tests/support/echo_server.py"), *server]
    alone: dict[str, Any] = {"labels": None, "per_s": None}
    infer_per_s = None
  else:
    command = ["-m", "dss_jax.main", "serve", f"--model_dir={args.model_dir}"]
    # One length holds all of these inputs: less to warm up.
    command += [f"--outputs={args.outputs}", "--lengths=24", *server]
    ended = subprocess.run(
      [sys.executable, __file__, *sys.argv[1:], "--alone"],
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    alone = json.loads(ended.stdout.splitlines()[-1])
    infer_per_s = _infer_per_s(args, alone["per_s"])
  inputs = _inputs(args)
  runs = []
  for clients in args.clients:
    with _server(command) as address:
      found = _run_clients(address, args, clients, inputs, alone["labels"])
    if alone["per_s"]:
      found["of_predictor"] = found["per_s"] / alone["per_s"]
      found["of_infer"] = found["per_s"] / infer_per_s
    runs.append(found)
  return {
    "predictor_per_s": alone["per_s"],
    "infer_per_s": infer_per_s,
    "runs": runs,
  }


def _print(report: dict[str, Any]) -> None:
  if report["predictor_per_s"]:
    print(f"the predictor alone: {report['predictor_per_s']:.0f} inputs/s")
    print(f"dss-jax infer: {report['infer_per_s']:.0f} rows/s")
  for run in report["runs"]:
    latency = ", ".join(
      f"{name} {value:.0f}" for name, value in run["latency_ms"].items()
    )
    share = (
      f" ({run['of_predictor']:.0%} of the predictor alone,"
      f" {run['of_infer']:.0%} of infer)"
      if "of_predictor" in run
      else ""
    )
    print(
      f"{run['clients']} clients: {run['per_s']:.0f}/s{share},"
      f" {run['succeeded']:.2%} of {run['requests']} succeeded"
      f" {run['statuses']}, {run['wrong']} wrong; ms: {latency};"
      f" {run['inputs_a_batch']:.1f} inputs a batch of {run['batch_ms']:.1f} ms;"
      f" server CPU {run['server_cpu_ms']:.2f} ms a request"
    )
  print(f"load average {report['load'][0]:.1f} on {report['cores']} cores")


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model_dir", help="a run, or an exported student")
  parser.add_argument("--http_only", action="store_true")
  parser.add_argument("--outputs", default="label")
  parser.add_argument("--clients", type=int, nargs="+", default=[64, 200])
  parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
  parser.add_argument("--ramp_s", type=float, default=2.0, help="not counted")
  parser.add_argument("--num_inputs", type=int, default=1000)
  parser.add_argument("--max_batch", type=int, default=32)
  parser.add_argument("--max_queue", type=int, default=128)
  parser.add_argument("--repeats", type=int, default=5, help="predictor alone")
  parser.add_argument("--json", help="file to write")
  parser.add_argument("--load", help=argparse.SUPPRESS)
  parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.load:
    plan = json.loads(pathlib.Path(args.load).read_text())
    print(json.dumps(asyncio.run(_load(plan))))
    return
  if not args.http_only and not args.model_dir:
    parser.error("give --model_dir, or --http_only")
  if args.alone:
    print(json.dumps(_predict_alone(args)))
    return
  report = {**measuring.description(packages=PACKAGES), **_measure(args)}
  _print(report)
  measuring.write_json(args.json, report)


if __name__ == "__main__":
  measuring.run(main)
