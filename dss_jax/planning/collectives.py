"""What devices send each other in a step, read from the compiled program.

The compiler decides what is communicated; its program, as text (HLO), says so:

    %all-reduce.3 = (f32[48]{0}, f32[48,96]{1,0}) all-reduce(%a, %b),
      channel_id=5, replica_groups=[1,8]<=[8], to_apply=%add

Bytes here are those of the whole array that an operation deals with, on one
device: what an all-reduce sums, what an all-gather ends with, what a
reduce-scatter begins with. An operation in the body of a loop counts as often
as the loop turns.

TPU programs fuse the parts of an asynchronous collective into the operations
that it overlaps with: each of these fusions repeats the collective, with the
same channel. Their reduce-scatter is a fusion, too, of an all-reduce and slices:

    %f = bf16[128,96]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping

KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)

_Shape = tuple[str, tuple[int, ...]]  # ("f32", (48, 96))


@dataclasses.dataclass(frozen=True)
class Collective:
  """One operation of a program by which devices exchange arrays.

  Attributes:
    kind: one of `KINDS`.
    shapes: element type and dimensions of the arrays on one device: those that
      come out, and of a reduce-scatter those that go in.
    group_size: devices that take part together.
    times: how often a step does it.
    op_name: the place in the traced function that it stems from.
    channel: XLA's number of the operation; None where it has none.
  """

  kind: str
  shapes: tuple[_Shape, ...]
  group_size: int
  times: int
  op_name: str
  channel: int | None = None

  @property
  def bytes(self) -> int:
    """Bytes of its arrays on one device, each time."""
    return sum(_num_bytes(*shape) for shape in self.shapes)

  @property
  def bytes_per_step(self) -> int:
    """Bytes of its arrays on one device, over a step."""
    return self.times * self.bytes

  @property
  def sent_per_step(self) -> float:
    """Bytes that a device sends in a step where its group forms a ring.

    Each of n devices passes on all parts of an array but its own; to sum and
    then share the sums, twice.
    """
    if self.kind == "collective-permute":
      return self.bytes_per_step
    rounds = 2 if self.kind == "all-reduce" else 1
    return rounds * (1 - 1 / self.group_size) * self.bytes_per_step


@dataclasses.dataclass(frozen=True)
class Traffic:
  """All collectives of a program.

  Attributes:
    collectives: in the order of the text.
    uncounted_loops: loops that hold collectives and do not say how often they
      turn; counted as if once.
  """

  collectives: tuple[Collective, ...]
  uncounted_loops: int = 0

  def of_kind(self, kind: str) -> list[Collective]:
    """The collectives of one kind."""
    return [one for one in self.collectives if one.kind == kind]

  def bytes_per_step(self, kind: str | None = None) -> int:
    """Bytes of arrays on one device over a step, of a kind or of all."""
    found = self.collectives if kind is None else self.of_kind(kind)
    return sum(one.bytes_per_step for one in found)

  def sent_per_step(self) -> float:
    """Bytes that a device sends in a step, by rings."""
    return sum(one.sent_per_step for one in self.collectives)


def read(program: str, num_devices: int) -> Traffic:
  """Reads a compiled program, as `compiled.as_text()` gives it.

  All branches of a conditional count as taken.

  Args:
    program: HLO text of the program of one device, after partitioning.
    num_devices: devices that it runs on.
  """
  computations, entry = _computations(program)
  uncounted: set[str] = set()

  @functools.cache
  def collectives_of(name: str) -> tuple[Collective, ...]:
    found: list[Collective] = []
    fused_channels: set[int | None] = set()
    for line in computations.get(name, ()):
      if collective := _collective(line, num_devices):
        found.append(collective)
      fused = " fusion(" in line
      for callee, times in _callees(line, computations):
        inner = collectives_of(callee)
        if inner and times is None:
          uncounted.add(callee)
        scattered = fused and callee.startswith("all-reduce-scatter")
        for one in inner:
          if scattered:
            one = dataclasses.replace(one, kind="reduce-scatter")
          elif fused and one.channel in fused_channels:
            continue
          elif fused and one.channel is not None:
            fused_channels.add(one.channel)
          found.append(dataclasses.replace(one, times=one.times * (times or 1)))
    return tuple(found)

  return Traffic(collectives_of(entry), len(uncounted))


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
# Only lines with one of these matter.
_CALLS = re.compile(
  r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OPERATION = re.compile(
  rf"= (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_LOOP = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
_LESS = re.compile(r"ROOT .* compare\((%[\w.\-]+), (%[\w.\-]+)\).*direction=LT")
_CONSTANT = re.compile(r" constant\((\d+)\)")
_ELEMENT = re.compile(r" get-tuple-element\(%[\w.\-]+\), index=(\d+)")
_SUM = re.compile(r" add\((%[\w.\-]+), (%[\w.\-]+)\)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
  """The lines of each computation, and the name of the first to run."""
  computations: dict[str, list[str]] = {}
  entry = ""
  lines: list[str] = []
  for line in program.splitlines():
    if line.startswith(" "):
      lines.append(line)
    elif header := _HEADER.match(line):
      lines = computations[header[2]] = []
      if header[1]:
        entry = header[2]
  return computations, entry


def _callees(
  line: str, computations: Mapping[str, list[str]]
) -> Iterator[tuple[str, int | None]]:
  """Computations that an instruction runs, and how often (None: unknown)."""
  if "async-update(" in line or "async-done(" in line:
    return  # It names again what its async-start runs.
  times: int | None = 1
  if " while(" in line:
    trips = _TRIPS.search(line)
    times = int(trips[1]) if trips else _turns(line, computations)
  for name in _CALLS.findall(line):
    yield name, times
  for names in _BRANCHES.findall(line):
    for name in names.split(","):
      yield name.strip().lstrip("%"), times


def _turns(line: str, computations: Mapping[str, list[str]]) -> int | None:
  """How often a loop turns that counts from zero, as scans do.

  Read from its condition, `counter < constant`, and from what its body adds to
  the counter; None for other loops. TPU programs say it in no other way.
  """
  loop = _LOOP.search(line)
  if loop is None:
    return None
  condition, body = (computations.get(name, []) for name in loop.groups())
  less = _LESS.search("\n".join(condition))
  if less is None:
    return None
  limit = _CONSTANT.search(_definition(less[2], condition))
  place = _ELEMENT.search(_definition(less[1], condition))
  if limit is None or place is None:
    return None
  step = 1
  root = next((each for each in body if "ROOT " in each), "")
  next_values = re.findall(r"%[\w.\-]+", root.partition(" tuple(")[2])
  if int(place[1]) < len(next_values):
    added = _SUM.search(_definition(next_values[int(place[1])], body))
    for name in added.groups() if added else ():
      if constant := _CONSTANT.search(_definition(name, body)):
        step = int(constant[1])
  return math.ceil(int(limit[1]) / max(step, 1))


def _definition(name: str, lines: Iterable[str]) -> str:
  """The instruction of a computation that defines a name; empty for none."""
  return next((line for line in lines if f"{name} = " in line), "")


def _collective(line: str, num_devices: int) -> Collective | None:
  """The collective of a line; None for lines without, and groups of one."""
  match = _OPERATION.search(line)
  if match is None:
    return None
  kind = match["kind"]
  size = _group_size(line, num_devices)
  if size < 2:
    return None
  shapes = [
    (dtype, tuple(int(n) for n in dims.split(",") if n))
    for dtype, dims in _SHAPE.findall(match["type"])
  ]
  if match["start"] and kind == "collective-permute":
    shapes = shapes[1:2]  # what goes in, what comes out, and two counters
  elif match["start"] and kind == "all-gather":
    shapes = shapes[len(shapes) // 2 :]  # all that goes in, all that comes out
  if kind == "reduce-scatter":
    shapes = [(dtype, _times(dims, size)) for dtype, dims in shapes]
  name, channel = _OP_NAME.search(line), _CHANNEL.search(line)
  return Collective(
    kind,
    tuple(shapes),
    size,
    times=1,
    op_name=name[1] if name else "",
    channel=int(channel[1]) if channel else None,
  )


def _times(dims: tuple[int, ...], size: int) -> tuple[int, ...]:
  """The dimensions of what a part of these is scattered from, flattened."""
  return (size * math.prod(dims),)


def _group_size(line: str, num_devices: int) -> int:
  """Devices in one group of a collective, in each of HLO's notations."""
  if re.search(r"\bsource_target_pairs=\{\{", line):
    return num_devices
  _, found, groups = line.partition("replica_groups=")
  if not found:
    return num_devices
  if mesh := re.match(r"@?mesh\[([^\]]*)\].*? \{([^}]*)\}", groups):
    axes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
    used = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or axes[axis]) for axis, part in used)
  if iota := re.match(r"\[([\d,]+)\]<=", groups):
    return int(iota[1].split(",")[-1])
  if listed := re.match(r"\{\{([\d,]*)\}", groups):
    return len(listed[1].split(","))
  return num_devices  # replica_groups={}: all of them


_BITS = re.compile(r"(?:bf|f|s|u|c)(\d+)")


def _num_bytes(dtype: str, dims: Iterable[int]) -> int:
  """Bytes of an array of an HLO element type such as `f32` or `pred`."""
  bits = _BITS.match(dtype)
  size = 1 if bits is None else int(bits[1]) / 8
  if dtype == "token":
    size = 0
  return math.ceil(size * math.prod(dims))
