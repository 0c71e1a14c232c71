"""A plan as text for people, and as JSON values."""

from __future__ import annotations

import dataclasses
from typing import Any

from dss_jax.planning import collectives
from dss_jax.planning.run_plan import WAITING_BATCHES, Plan
from dss_jax.planning.sizes import shown


def as_json(plan: Plan) -> dict[str, Any]:
  """All of a plan; bytes are those of one device, and of a step."""
  run = plan.run
  partitioner = run.config.partitioner
  traffic: dict[str, Any] | None = None
  if plan.traffic is not None:
    traffic = {
      kind: {
        "operations": sum(each.times for each in plan.traffic.of_kind(kind)),
        "bytes": plan.traffic.bytes_per_step(kind),
      }
      for kind in collectives.KINDS
    }
    traffic["sent_bytes"] = round(plan.traffic.sent_per_step())
    traffic["uncounted_loops"] = plan.traffic.uncounted_loops
  return {
    "backend": run.backend,
    "simulated": plan.simulated,
    "mesh": dict(partitioner.mesh.shape),
    "fully_sharded": partitioner.fully_sharded,
    "batch_shape": dataclasses.asdict(run.shape),
    "num_microbatches": run.config.num_microbatches,
    "bytes": {
      "parameters": plan.parameters,
      "frozen_parameters": plan.frozen,
      "optimizer_state": plan.optimizer,
      "gradients": plan.gradients,
      "batch": plan.batch,
      "batches_on_device": 1 + WAITING_BATCHES,
      "temporaries": dataclasses.asdict(plan.temporaries),
      "in_all": plan.total,
      "device_memory": plan.memory,
    },
    "largest_batch": plan.largest and dataclasses.asdict(plan.largest),
    "collectives": traffic,
    "collectives_by_formula": (
      plan.expected and dataclasses.asdict(plan.expected)
    ),
  }


def as_text(plan: Plan) -> str:
  """A few tables."""
  return "\n".join(
    [*_head(plan), "", *_memory(plan), "", *_largest(plan), "", *_traffic(plan)]
  )


def _head(plan: Plan) -> list[str]:
  run, partitioner = plan.run, plan.run.config.partitioner
  shape, micro = run.shape, run.config.num_microbatches
  device = partitioner.mesh.devices.flat[0].device_kind
  return [
    f"mesh: data {partitioner.data_size} x model {partitioner.model_size},"
    f" {device}{' (simulated)' if plan.simulated else ''}; fully sharded:"
    f" {'yes' if partitioner.fully_sharded else 'no'}",
    f"batch: about {shape.records_per_batch} records in {shape.rows} rows of"
    f" {shape.encoder_length} + {shape.decoder_length} tokens, in"
    f" {micro} micro-batch{'es' if micro > 1 else ''}",
  ]


def _memory(plan: Plan) -> list[str]:
  temporaries = plan.temporaries
  terms = ", ".join(
    f"{name} {shown(size)}" for name, size in temporaries.terms.items() if size
  )
  by_formula = f"formula: {terms}"
  if temporaries.compiled is not None:
    off = 100 * (temporaries.formula / temporaries.compiled - 1)
    by_formula = f"{off:+.0f} %; {by_formula}"
  batches = 1 + WAITING_BATCHES
  rows = [
    ("parameters", plan.parameters, "exact"),
    ("frozen parameters", plan.frozen, "exact"),
    ("optimizer state", plan.optimizer, "exact"),
    (
      f"batches, {batches}",
      batches * plan.batch,
      f"exact; one is in the step, {WAITING_BATCHES} wait",
    ),
    ("temporaries", temporaries.compiled, f"XLA's figure ({plan.run.backend})"),
    (
      "temporaries" if temporaries.compiled is None else "  (by formula)",
      temporaries.formula,
      by_formula,
    ),
    (
      "  (elsewhere)",
      temporaries.accelerator,
      "formula for GPUs and TPUs, on which bfloat16 stays bfloat16",
    ),
    ("in all", plan.total, ""),
    ("  (gradients)", plan.gradients, "exact; part of the temporaries"),
  ]
  return [
    "bytes on each device",
    *(
      f"  {name:<19}{shown(size):>12}  {note}".rstrip()
      for name, size, note in rows
      if size is not None and (size or name != "frozen parameters")
    ),
  ]


def _largest(plan: Plan) -> list[str]:
  largest = plan.largest
  if plan.memory is None or largest is None:
    return [
      "largest batch: the memory of a device is not known; say it with"
      " --plan_memory=80GiB"
    ]
  where = f"{shown(plan.memory)} ({plan.memory_source})"
  if not largest.rows:
    return [
      f"largest batch: none fits into {where}; try more micro-batches, fully"
      " sharded parameters, or more devices"
    ]
  how = "compiled for it" if largest.compiled else "by formula"
  return [
    f"largest batch: {largest.rows} rows, about {largest.records} records, take"
    f" {shown(largest.bytes)} of {where}; {how}"
  ]


def _traffic(plan: Plan) -> list[str]:
  lines = []
  if plan.traffic is None:
    lines.append("collectives: not known without compiling")
  elif not plan.traffic.collectives:
    lines.append("collectives: none")
  else:
    lines.append("collectives of a step, bytes of their arrays on each device")
    for kind in collectives.KINDS:
      if found := plan.traffic.of_kind(kind):
        times = sum(each.times for each in found)
        size = plan.traffic.bytes_per_step(kind)
        lines.append(f"  {kind:<19}{shown(size):>12}  in {times} operations")
    sent = plan.traffic.sent_per_step()
    lines.append(f"  {'sent, by rings':<19}{shown(sent):>12}")
    if plan.traffic.uncounted_loops:
      lines.append(
        "  at least: loops that do not say how often they turn, read as if"
        f" once: {plan.traffic.uncounted_loops}"
      )
  if plan.expected is None:
    return lines
  expected = dataclasses.asdict(plan.expected)
  terms = ", ".join(f"{name} {shown(size)}" for name, size in expected.items())
  return (
    [*lines, f"  (by formula: {terms})"] if any(expected.values()) else lines
  )
