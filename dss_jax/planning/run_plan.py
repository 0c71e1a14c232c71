"""What a run would take on each device, and the largest batch that fits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from dss_jax.models.partitioning.logical_axes import standard_logical_axis_rules
from dss_jax.planning import collectives, expected_traffic, memory
from dss_jax.planning.abstract_run import AbstractRun

# Batches on the devices beside that of the step: two wait, one is on its way.
WAITING_BATCHES = 3
# Attempts to find the largest batch by compiling for it.
_ATTEMPTS = 3
# A batch that fills a device so far is not worth another attempt.
_FULL = 0.95
# After one that was too large, the next is to leave so much more room.
_ROOM = 0.005
_MOST_ROWS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Temporaries:
  """Bytes of a step's temporary arrays, activations and gradients, on a device.

  Attributes:
    compiled: by XLA; None where the step was not compiled.
    formula: by `activations.ActivationFormula`.
    terms: of the formula, by name.
    accelerator: by the formula for GPUs and TPUs, where the devices are only
      simulated; else None.
  """

  compiled: int | None
  formula: int
  terms: dict[str, int]
  accelerator: int | None = None

  @property
  def best(self) -> int:
    """The compiler's figure, or else the formula's."""
    return self.formula if self.compiled is None else self.compiled


@dataclasses.dataclass(frozen=True)
class LargestBatch:
  """The largest batch that fits into a device's memory.

  Attributes:
    rows: of the global batch; 0 where none fits.
    records: that such a batch stands for, about.
    bytes: what it takes on a device, in all.
    compiled: whether the step was compiled for it, or a formula says so.
  """

  rows: int
  records: int
  bytes: int
  compiled: bool


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run would take. All bytes are those of one device.

  Attributes:
    run: its shapes.
    parameters: trained ones.
    frozen: parameters that are not trained.
    optimizer: the optimizer's state.
    gradients: which are part of the temporaries.
    batch: one.
    temporaries: what a step needs beside all that.
    memory: of a device; None where nobody says.
    memory_source: who says so.
    largest: None without `memory`.
    traffic: collectives of the compiled step; None where it was not compiled.
    expected: the same by formula; None for meshes that it does not cover.
    simulated: whether the devices are only simulated.
  """

  run: AbstractRun
  parameters: int
  frozen: int
  optimizer: int
  gradients: int
  batch: int
  temporaries: Temporaries
  memory: int | None
  memory_source: str
  largest: LargestBatch | None
  traffic: collectives.Traffic | None
  expected: expected_traffic.ExpectedTraffic | None
  simulated: bool

  @property
  def total(self) -> int:
    """All of it, at the step's fullest."""
    return (
      self.parameters
      + self.frozen
      + self.optimizer
      + (1 + WAITING_BATCHES) * self.batch
      + self.temporaries.best
    )


def make_plan(
  run: AbstractRun,
  *,
  device_memory: int | None = None,
  compiling: bool = True,
  simulated: bool = False,
) -> Plan:
  """Plans a run; see `Plan`.

  Args:
    run: its shapes.
    device_memory: bytes of one device; None asks the devices.
    compiling: compile the step, once or a few times, and read its program;
      else all but what is exact comes from formulas.
    simulated: whether the run's devices stand for others.
  """
  source = "--plan_memory"
  if device_memory is None:
    device_memory, source = _memory_of(run, simulated)
  planner = _Planner(run, compiling)
  temporaries = planner.temporaries(run.shape.rows)
  if simulated:
    there = run.formula("gpu").bytes(planner.rows_at_once(run.shape.rows))
    temporaries = dataclasses.replace(temporaries, accelerator=there)
  exact = {
    "parameters": memory.bytes_per_device(run.state.params),
    "frozen": memory.bytes_per_device(run.frozen),
    "optimizer": memory.bytes_per_device((run.state.opt_state, run.state.step)),
  }
  return Plan(
    run=run,
    **exact,
    gradients=exact["parameters"],
    batch=memory.bytes_per_device(run.batch()),
    temporaries=temporaries,
    memory=device_memory,
    memory_source=source,
    largest=(
      None
      if device_memory is None
      else planner.largest(device_memory, sum(exact.values()))
    ),
    traffic=planner.traffic(),
    expected=expected_of(run),
    simulated=simulated,
  )


def _memory_of(run: AbstractRun, simulated: bool) -> tuple[int | None, str]:
  """Bytes of the smallest device, and who says so."""
  if simulated:
    return None, ""
  devices = run.config.partitioner.mesh.local_devices
  stats = [device.memory_stats() or {} for device in devices]
  limits = [each["bytes_limit"] for each in stats if "bytes_limit" in each]
  if limits:
    return min(limits), "the device's own limit"
  if run.backend != "cpu":
    return None, ""
  whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return whole // len(devices), "this machine's memory"


def expected_of(run: AbstractRun) -> expected_traffic.ExpectedTraffic | None:
  """What a run's devices should send each other; None where nobody knows."""
  partitioner = run.config.partitioner
  if partitioner.rules != standard_logical_axis_rules():
    return None
  model = run.config.model.config
  narrow = model.dtype == "bfloat16" and run.backend != "cpu"
  return expected_traffic.expected_traffic(
    model,
    run.placed_params(),
    run.shape,
    partitioner.mesh.shape,
    run.config.num_microbatches,
    activation_bytes=2 if narrow else 4,
  )


class _Planner:
  """Compiles a run's step for numbers of rows, each once."""

  def __init__(self, run: AbstractRun, compiling: bool):
    self._run = run
    self._formula = run.formula()
    self._compiling = compiling
    self._parts = run.config.partitioner.data_size * run.config.num_microbatches
    self._compiled: dict[int, int] = {}
    self._traffic: collectives.Traffic | None = None

  def temporaries(self, rows: int) -> Temporaries:
    local = self.rows_at_once(rows)
    return Temporaries(
      self._compile(rows),
      self._formula.bytes(local),
      self._formula.parts(local),
    )

  def rows_at_once(self, rows: int) -> int:
    """Those of one device in one micro-batch."""
    return rows // self._parts

  def traffic(self) -> collectives.Traffic | None:
    """Of the run's own batch."""
    self._compile(self._run.shape.rows)
    return self._traffic

  def _compile(self, rows: int) -> int | None:
    """Bytes of temporaries, by XLA; None where it does not say."""
    if not self._compiling:
      return None
    if rows not in self._compiled:
      program = self._run.compile(rows)
      analysis = program.memory_analysis()
      if analysis is None:
        self._compiling = False
        return None
      self._compiled[rows] = analysis.temp_size_in_bytes
      if rows == self._run.shape.rows:
        devices = self._run.config.partitioner.mesh.size
        self._traffic = collectives.read(program.as_text() or "", devices)
    return self._compiled[rows]

  def largest(self, device_memory: int, state: int) -> LargestBatch:
    """The most rows that fit beside the state.

    The formula, brought to agree with the compiler at the last batch compiled,
    proposes; compiling for that batch disposes.
    """
    shape = self._run.shape
    per_row = memory.bytes_per_device(self._run.batch()) / shape.rows
    beside = (1 + WAITING_BATCHES) * per_row
    rows, factor, aim = shape.rows, 1.0, device_memory

    def taken(rows: int) -> int:
      temporaries = factor * self._formula.bytes(rows // self._parts)
      temporaries = self._compiled.get(rows, temporaries)
      return round(state + rows * beside + temporaries)

    for _ in range(_ATTEMPTS if self._compiling else 1):
      found = self.temporaries(rows)
      factor = found.best / found.formula
      rows = self._most(taken, aim)
      if not rows or self._compile(rows) is None:
        break
      if _FULL * device_memory < taken(rows) <= device_memory:
        break
      if taken(rows) > device_memory:
        aim = round((1 - _ROOM) * aim)
    # Of all that were compiled; the run's own batch is one of them.
    proved = [each for each in self._compiled if taken(each) <= device_memory]
    if proved:
      rows = max(proved)
    elif rows in self._compiled:
      factor = self._compiled[rows] / self._formula.bytes(rows // self._parts)
      rows = self._most(taken, aim)
    records = round(rows * shape.records_per_batch / shape.rows)
    return LargestBatch(rows, records, taken(rows), bool(proved))

  def _most(self, taken: Callable[[int], int], room: int) -> int:
    """The most rows that take no more, a multiple of what the mesh needs."""
    low, high = 0, 1
    while taken(high * self._parts) <= room and high * self._parts < _MOST_ROWS:
      low, high = high, 2 * high
    while high - low > 1:
      middle = (low + high) // 2
      low, high = (
        (middle, high) if taken(middle * self._parts) <= room else (low, middle)
      )
    return low * self._parts
