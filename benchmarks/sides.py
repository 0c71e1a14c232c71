"""The sides of a comparison of training, by name, and what is reported of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

import measuring
from workers import Worker

# Module and options of each. "official" is the published recipe; the others of
# Hugging Face are it at its best: half precision, one pass instead of two, each
# shape compiled.
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
  "ours": ("our_training", {}),
  "plain": ("our_training", {"plain": True}),
  "official": ("recipe_training", {}),
  "kept_memory": ("recipe_training", {}),
  "one_forward": ("recipe_training", {"one_forward": True}),
  "bf16": ("recipe_training", {"dtype": "bfloat16"}),
  "compiled": (
    "recipe_training",
    {"dtype": "bfloat16", "compile": True, "pad_to": 32},
  ),
  "compiled_one_forward": (
    "recipe_training",
    {"dtype": "bfloat16", "compile": True, "pad_to": 32, "one_forward": True},
  ),
}
OURS = [name for name, (module, _) in SIDES.items() if module[:3] == "our"]

# Of all sides alike. Waiting threads that spin slow down everything on a shared
# machine; nothing may look for a newer model on the network.
ENVIRONMENT = {
  "OMP_WAIT_POLICY": "PASSIVE",
  "HF_HUB_OFFLINE": "1",
  "TOKENIZERS_PARALLELISM": "false",
}
# Of one side: what `dss_jax.training.cpu_memory` tells the C library for us.
OWN_ENVIRONMENT = {
  "kept_memory": {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
  }
}
# Of tests: one device, and little time for optimising.
SMOKE_ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


def start(
  name: str,
  student: str,
  batches: str | os.PathLike[str],
  *,
  environment: Mapping[str, str],
  seconds: float = 600.0,
  **options: Any,
) -> Worker:
  """A side's process, its batches and its model in place."""
  module, own = SIDES[name]
  return Worker(
    module,
    {**own, "student": student, "batches": str(batches), **options},
    name=name,
    environment={
      **ENVIRONMENT,
      **OWN_ENVIRONMENT.get(name, {}),
      **environment,
    },
    seconds=seconds,
  )


def compare_losses(
  student: str,
  batches: str | os.PathLike[str],
  weights: str,
  *,
  environment: Mapping[str, str],
  count: int,
  seconds: float = 600.0,
  model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """What both libraries compute on the same records from the same weights.

  Args:
    student: of `students.STUDENTS`.
    batches: folder of `prepare.write`.
    weights: file to write them to, by Hugging Face's names.
    environment: of both processes.
    count: losses, before and after updates; see `Side.losses`.
    seconds: that both together may take.
    model: settings of our student.

  Returns:
    The losses of both and their largest relative difference.
  """
  end = time.monotonic() + seconds
  sizes = {"dropout_rate": 0.0}
  options: dict[str, dict[str, Any]] = {
    "ours": {"model": {**(model or {}), **sizes}},
    "official": {"model": sizes, "weights": weights},
  }
  asked = {"ours": {"weights": weights}, "official": {}}
  losses = {}
  for name, settings in options.items():
    with start(
      name,
      student,
      batches,
      environment=environment,
      seconds=end - time.monotonic(),
      **settings,
    ) as worker:
      losses[name] = worker.ask(
        "losses", seconds=end - time.monotonic(), count=count, **asked[name]
      )["losses"]
  difference = max(
    abs(a - b) / abs(b)
    for a, b in zip(losses["ours"], losses["official"], strict=True)
  )
  return {**losses, "difference": difference}


def add_turn(found: dict[str, list], answer: Mapping[str, Any]) -> None:
  """Keeps what a turn of `steps` measured, next to the turns before it."""
  for name, value in answer.items():
    values = value if isinstance(value, list) else [value]
    found.setdefault(name, []).extend(values)


def summary(found: Mapping[str, list], steps: int) -> dict[str, float]:
  """Medians over turns of `steps` steps each."""

  def rate(amount: str, seconds: str = "wall_s") -> float:
    pairs = zip(found[amount], found[seconds], strict=True)
    return statistics.median(a / s for a, s in pairs)

  return {
    "records_per_s": rate("records"),
    "records_per_cpu_s": rate("records", "cpu_s"),
    "tokens_per_s": rate("tokens"),
    "flops_per_s": rate("flops"),
    "step_s": statistics.median(found["wall_s"]) / steps,
    "step_cpu_s": statistics.median(found["cpu_s"]) / steps,
    "padding": statistics.mean(found["padding"]),
  }


HEADER = (
  "side",
  "records/s",
  "tokens/s",
  "step ms",
  "CPU ms",
  "padding",
  "GFLOP/s",
  "compile s",
  "peak GiB",
)


def row(name: str, side: Mapping[str, Any], steps: int) -> list[str]:
  """A line of the table under `HEADER`."""
  summary = side["summary"]
  turns = side["turns"]
  walls = [1e3 * wall / steps for wall in turns["wall_s"]]
  return [
    name,
    f"{summary['records_per_s']:,.1f}",
    f"{summary['tokens_per_s']:,.0f}",
    measuring.spread(walls, 1),
    f"{1e3 * summary['step_cpu_s']:,.0f}",
    f"{summary['padding']:.1%}",
    f"{summary['flops_per_s'] / 1e9:,.0f}",
    f"{side['compile_s']:.1f}",
    f"{side['memory']['peak_bytes'] / 2**30:.2f}",
  ]
