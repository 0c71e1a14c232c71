"""What the benchmarks share: clocks, turns, memory, machine, tables, files."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dss_jax.base.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers")

# Dense bfloat16 FLOP/s by the datasheets, without sparsity.
_DATASHEET = {
  "H100 NVL": 835e12,
  "H100 PCIe": 756e12,
  "H100": 989.4e12,
  "H200": 989.4e12,
  "A100": 312e12,
}

Record = dict[str, list[float]]


def description(
  device: str | None = None, packages: Sequence[str] = PACKAGES
) -> dict[str, Any]:
  """What was run, on what, with which versions, and how busy the machine was."""
  return {
    "command": " ".join(["python", *sys.argv]),
    "device": device or processor(),
    "processor": processor(),
    "cores": cores(),
    "load": os.getloadavg(),
    "python": platform.python_version(),
    "versions": {name: _version(name) for name in packages},
  }


def run(main: Callable[[], Any]) -> None:
  """Runs a benchmark; reports in one line what its user is to mend."""
  try:
    main()
  except (UserError, FileNotFoundError) as error:
    sys.exit(f"{sys.argv[0]}: {error}")


def cores() -> int:
  """Processors that this process may use."""
  return len(os.sched_getaffinity(0))


def processor() -> str:
  """The processor's name, where Linux tells it."""
  with contextlib.suppress(OSError):
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    for line in lines.splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    return importlib.metadata.version(package)
  return None


def empty_record() -> Record:
  """For `clock`."""
  return {"wall_s": [], "cpu_s": [], "load": []}


@contextlib.contextmanager
def clock(record: Record) -> Iterator[None]:
  """Appends wall and CPU seconds (of all threads) and the load average."""
  start, cpu = time.perf_counter(), time.process_time()
  yield
  record["wall_s"].append(time.perf_counter() - start)
  record["cpu_s"].append(time.process_time() - cpu)
  record["load"].append(os.getloadavg()[0])


def turns(names: Sequence[str], repeats: int) -> Iterator[str]:
  """Whose turn it is: A B, B A, A B, ...: what drifts, drifts for all."""
  for repeat in range(repeats):
    yield from names if repeat % 2 == 0 else reversed(names)


def timed_turns(
  ways: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, Record]:
  """Every repetition of each way, in turns. Ways block until all is done."""
  records = {name: empty_record() for name in ways}
  for name in turns(tuple(ways), repeats):
    with clock(records[name]):
      ways[name]()
  return records


class CompileTime:
  """Seconds that JAX spent tracing and compiling since this was made."""

  def __init__(self):
    from jax import monitoring

    self.seconds = 0.0
    monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event: str, duration_secs: float, **kwargs) -> None:
    del kwargs
    if event.startswith("/jax/core/compile/"):
      self.seconds += duration_secs


def peak_bytes() -> int:
  """The largest resident memory of this process so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == "darwin" else 1024)


def memory_of_program(compiled: Any) -> dict[str, int]:
  """XLA's own plan of a compiled program's memory, in bytes of a device."""
  plan = compiled.memory_analysis()
  kinds = ("argument", "output", "alias", "temp", "generated_code")
  if plan is None:
    return {}
  sizes = {kind: getattr(plan, f"{kind}_size_in_bytes") for kind in kinds}
  # What is donated is counted on both sides.
  total = sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"]
  return {**sizes, "total": total}


def datasheet_flops_per_s(device_kind: str) -> float | None:
  """Of a device that is known by name."""
  for name, rate in _DATASHEET.items():
    if name in device_kind:
      return rate
  return None


def share_of_products(
  peak: Mapping[str, Any], flops: float, wall_s: float, cpu_s: float
) -> float:
  """What part of the products' rate (`matmul.rate`) some work reached.

  On a CPU by the CPU seconds of both: other processes' share of the cores
  changes from one moment to the next.
  """
  if peak["platform"] == "cpu":
    return flops / cpu_s / peak["flops_per_cpu_s"]
  return flops / wall_s / peak["flops_per_s"]


def spread(values: Sequence[float], digits: int = 2) -> str:
  """Median, lowest and highest."""
  low, middle, high = min(values), statistics.median(values), max(values)
  return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  """Columns as wide as their widest cell, the first one to the left."""
  cells = [[str(cell) for cell in row] for row in (header, *rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in cells
  )


def write_json(path: str | os.PathLike[str] | None, report: Any) -> None:
  """Writes the report, where a file is asked for; whole or not at all."""
  if path is None:
    return
  target = pathlib.Path(path)
  partial = target.with_name(target.name + ".partial")
  text = json.dumps(report, indent=1) + "\n"
  partial.write_text(text, encoding="utf-8")
  partial.replace(target)
