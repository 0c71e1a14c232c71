"""What a run would take on each device, and the largest batch that fits.

Chips of a TPU slice that is not here, and their memory: `tpu_topology`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable

from dss_jax.models.partitioning import placement
from dss_jax.models.partitioning.logical_axes import standard_logical_axis_rules
from dss_jax.planning import expected_traffic, largest_batch, tpu_topology
from dss_jax.planning.abstract_run import AbstractRun, bytes_per_device
from dss_jax.planning.compiled_step import CompiledStep, compile_step

# Batches on the devices besides that of the step: two wait, one is on its way.
WAITING_BATCHES = 3


@dataclasses.dataclass(frozen=True)
class RunPlan:
  """What a run would take. All bytes are those of one device.

  Attributes:
    run: its shapes.
    parameters: bytes of the trained ones.
    frozen: bytes of the parameters that are not trained.
    optimizer: bytes of the optimizer's state.
    gradients: bytes of the gradients, which are part of the temporaries.
    batch: bytes of one batch.
    step: the compiled step; None where it was not compiled or does not fit.
    refusal: why the compiler refuses the step; empty where it does not.
    memory: bytes of a device's memory; None where nobody knows.
    memory_source: who says how much memory there is.
    largest: the largest batch; None where it was not searched for.
    expected: the traffic by formula; None for meshes and
      compilers that it does not cover.
    simulated: whether this machine's CPU simulates the devices.
  """

  run: AbstractRun
  parameters: int
  frozen: int
  optimizer: int
  gradients: int
  batch: int
  step: CompiledStep | None
  refusal: str
  memory: int | None
  memory_source: str
  largest: largest_batch.LargestBatch | None
  expected: expected_traffic.ExpectedTraffic | None
  simulated: bool

  @property
  def state(self) -> int:
    """Bytes of all that stays on a device from step to step."""
    return self.parameters + self.frozen + self.optimizer

  @property
  def total(self) -> int | None:
    """Bytes in use at the step's fullest; None where nobody knows."""
    if self.step is None or self.step.temporaries is None:
      return None
    batches = (1 + WAITING_BATCHES) * self.batch
    return self.state + batches + self.step.temporaries


def make_plan(
  run: AbstractRun,
  *,
  device_memory: int | None = None,
  attempts: int = 3,
  compiling: bool = True,
  simulated: bool = False,
  progress: Callable[[int], None] = lambda rows: None,
) -> RunPlan:
  """Plans a run.

  Args:
    run: its shapes.
    device_memory: bytes of one device; None asks the devices.
    attempts: batches to compile for in search of the largest, after the run's
      own; 0 does not search.
    compiling: compile the step, once or a few times, and read its program;
      otherwise only exact figures and the formula of the traffic are known.
    simulated: whether the run's devices stand for others.
    progress: called with the rows of each batch that the step is about to be
      compiled for.
  """
  source = "as given"
  if device_memory is None:
    device_memory, source = _memory_of(run, simulated)

  @functools.cache
  def compiled(rows: int) -> CompiledStep | str:
    progress(rows)
    return compile_step(run, rows)

  step = compiled(run.shape.rows) if compiling else None
  parameters = bytes_per_device(run.state.params)
  plan = RunPlan(
    run=run,
    parameters=parameters,
    frozen=bytes_per_device(run.frozen),
    optimizer=bytes_per_device((run.state.opt_state, run.state.step)),
    gradients=parameters,
    batch=bytes_per_device(run.batch()),
    step=step if isinstance(step, CompiledStep) else None,
    refusal=step if isinstance(step, str) else "",
    memory=device_memory,
    memory_source=source,
    largest=None,
    expected=expected_of(run),
    simulated=simulated,
  )
  if device_memory is None or step is None or not attempts:
    return plan
  if isinstance(step, CompiledStep) and step.temporaries is None:
    return plan

  def bytes_of(rows: int) -> int:
    found = compiled(rows)
    if isinstance(found, str):
      return max(_bytes_refused(found), device_memory + 1)
    batches = (1 + WAITING_BATCHES) * bytes_per_device(run.batch(rows))
    return plan.state + batches + (found.temporaries or 0)

  largest = largest_batch.search(
    bytes_of,
    first=run.shape.rows,
    unit=run.config.partitioner.batch_shards * run.config.num_microbatches,
    state=plan.state + plan.gradients,
    memory=device_memory,
    attempts=attempts,
  )
  return dataclasses.replace(plan, largest=largest)


def _memory_of(run: AbstractRun, simulated: bool) -> tuple[int | None, str]:
  """Bytes of the smallest device, and who says so."""
  if simulated:
    return None, ""
  devices = run.config.partitioner.mesh.local_devices
  kind = devices[0].device_kind
  if placement.is_described(devices[0]):
    return tpu_topology.CHIP_MEMORY.get(kind), f"of a {kind} chip"
  stats = [device.memory_stats() or {} for device in devices]
  limits = [stat["bytes_limit"] for stat in stats if "bytes_limit" in stat]
  if limits:
    return min(limits), "the device's own limit"
  if run.backend != "cpu":
    return None, ""
  whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return whole // len(devices), "this machine's memory"


def expected_of(run: AbstractRun) -> expected_traffic.ExpectedTraffic | None:
  """What a run's devices should send each other; None where no formula says."""
  partitioner = run.config.partitioner
  rules = partitioner.logical_axis_rules
  standard = standard_logical_axis_rules()
  if rules is not None and tuple(map(tuple, rules)) != standard:
    return None
  if run.backend != "cpu":
    return None
  return expected_traffic.expected_traffic(
    run.config.model.config,
    run.placed_params(),
    run.shape,
    partitioner.mesh.shape,
    run.config.num_microbatches,
  )


# "Used 21.31G of 15.75G hbm", "required for HLO temporaries (22.00G)".
_REFUSED = re.compile(r"(?:Used |\()(\d+(?:\.\d+)?)G\b")


def _bytes_refused(refusal: str) -> int:
  """Bytes that the compiler says it would need; 0 where it does not."""
  sizes = [float(size) for size in _REFUSED.findall(refusal)]
  return int(max(sizes, default=0) * 2**30)
