"""A plan as text for people, and as JSON values."""

from __future__ import annotations

import dataclasses
from typing import Any

from dss_jax.base.errors import one_line
from dss_jax.models.partitioning import placement
from dss_jax.planning import collectives
from dss_jax.planning.byte_sizes import shown
from dss_jax.planning.run_plan import WAITING_BATCHES, RunPlan


def as_json(plan: RunPlan) -> dict[str, Any]:
  """The whole plan; bytes are those of one device, and of a step."""
  run, step = plan.run, plan.step
  partitioner = run.config.partitioner
  return {
    "backend": run.backend,
    "device_kind": partitioner.mesh.devices.flat[0].device_kind,
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
      "temporaries": step and step.temporaries,
      "in_all": plan.total,
      "device_memory": plan.memory,
    },
    "refusal": plan.refusal or None,
    "largest_batch": plan.largest
    and dataclasses.asdict(plan.largest)
    | {"records": _records(plan, plan.largest.rows)},
    "kernels": step and dict(step.kernels),
    "collectives": step and _traffic_as_json(step.traffic),
    "collectives_by_formula": (
      plan.expected and dataclasses.asdict(plan.expected)
    ),
  }


def _traffic_as_json(traffic: collectives.Traffic) -> dict[str, Any]:
  values: dict[str, Any] = {
    kind: {
      "operations": sum(one.times for one in traffic.of_kind(kind)),
      "bytes": traffic.bytes_per_step(kind),
    }
    for kind in collectives.KINDS
  }
  values["sent_bytes"] = round(traffic.sent_per_step())
  values["uncounted_loops"] = traffic.uncounted_loops
  return values


def _records(plan: RunPlan, rows: int) -> int:
  """Records that a batch of so many rows stands for, about."""
  return round(rows * plan.run.shape.records_per_batch / plan.run.shape.rows)


def as_text(plan: RunPlan) -> str:
  """A few tables."""
  tables = (_head, _memory, _largest, _kernels, _traffic)
  return "\n\n".join(
    "\n".join(lines) for table in tables if (lines := table(plan))
  )


def _head(plan: RunPlan) -> list[str]:
  run, partitioner = plan.run, plan.run.config.partitioner
  shape, micro = run.shape, run.config.num_microbatches
  device = partitioner.mesh.devices.flat[0].device_kind
  axes = partitioner.mesh.shape
  return [
    f"mesh: {' x '.join(f'{axis} {size}' for axis, size in axes.items())},"
    f" {device}{' (simulated)' if plan.simulated else ''}; fully sharded:"
    f" {'yes' if partitioner.fully_sharded else 'no'}",
    f"batch: about {shape.records_per_batch} records in {shape.rows} rows of"
    f" {shape.encoder_length} + {shape.decoder_length} tokens, in"
    f" {micro} micro-batch{'es' if micro > 1 else ''}",
  ]


def _memory(plan: RunPlan) -> list[str]:
  step, batches = plan.step, 1 + WAITING_BATCHES
  table = [
    ("parameters", plan.parameters, "exact"),
    ("frozen parameters", plan.frozen or None, "exact"),
    ("optimizer state", plan.optimizer, "exact"),
    (
      f"batches, {batches}",
      batches * plan.batch,
      f"exact; one is in the step, {WAITING_BATCHES} wait",
    ),
    (
      "temporaries",
      step and step.temporaries,
      f"the compiler's figure ({plan.run.backend})",
    ),
    ("in all", plan.total, ""),
    ("  (gradients)", plan.gradients, "exact; part of the temporaries"),
  ]
  lines = [
    "bytes on each device",
    *(
      f"  {name:<19}{shown(size):>12}  {note}".rstrip()
      for name, size, note in table
      if size is not None
    ),
  ]
  if plan.refusal:
    lines.append(
      "  the step does not fit; the compiler says:"
      f" {one_line(plan.refusal, longest=300)}"
    )
  elif step is None:
    lines.append("  temporaries: not known without compiling")
  return lines


def _largest(plan: RunPlan) -> list[str]:
  if plan.memory is None:
    return [
      "largest batch: not searched for, as nobody says how much memory a device"
      " has"
    ]
  largest, where = plan.largest, f"{shown(plan.memory)} ({plan.memory_source})"
  if largest is None:
    return ["largest batch: not searched for"]
  if not largest.tried:
    return [
      "largest batch: none; parameters, optimizer state and gradients alone take"
      f" {shown(largest.bytes)} of {where}"
    ]
  tried = ", ".join(map(str, largest.tried))
  if not largest.rows:
    return [
      f"largest batch: none of those compiled ({tried} rows) fits into {where};"
      " try more micro-batches, fully sharded parameters, or more devices"
    ]
  return [
    f"largest batch: {largest.rows} rows, about"
    f" {_records(plan, largest.rows)} records, take {shown(largest.bytes)} of"
    f" {where}; compiled for {tried} rows"
  ]


def _kernels(plan: RunPlan) -> list[str]:
  if plan.step is None or plan.run.backend == "cpu":
    return []
  found = [f"{times} x {name}" for name, times in plan.step.kernels.items()]
  return [f"hand-written kernels: {', '.join(found) or 'none'}"]


def _traffic(plan: RunPlan) -> list[str]:
  lines = []
  traffic = plan.step and plan.step.traffic
  if traffic is None:
    lines.append("collectives: not known without a compiled step")
  elif not traffic.collectives:
    lines.append("collectives: none")
  else:
    lines.append("collectives of a step, bytes of their arrays on each device")
    for kind in collectives.KINDS:
      if found := traffic.of_kind(kind):
        times = sum(one.times for one in found)
        size = traffic.bytes_per_step(kind)
        lines.append(f"  {kind:<19}{shown(size):>12}  in {times} operations")
    sent = traffic.sent_per_step()
    lines.append(f"  {'sent, by rings':<19}{shown(sent):>12}")
    devices = plan.run.config.partitioner.mesh.devices
    if (slices := placement.num_slices(devices.flat)) > 1:
      lines.append(f"  not counted: what the {slices} slices send each other")
    if traffic.uncounted_loops:
      lines.append(
        "  at least: loops that do not say how often they turn, read as if"
        f" once: {traffic.uncounted_loops}"
      )
  if plan.expected is None:
    return lines
  expected = dataclasses.asdict(plan.expected)
  terms = ", ".join(f"{name} {shown(size)}" for name, size in expected.items())
  return (
    [*lines, f"  (by formula: {terms})"] if any(expected.values()) else lines
  )
