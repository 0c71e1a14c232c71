"""T5 on TPU slices, by the TPU's own compiler: what a chip holds and sends.

    python benchmarks/tpu_slices.py --json FILE               # every slice
    python benchmarks/tpu_slices.py --json FILE --only XXL    # those so named
    python benchmarks/tpu_slices.py --json FILE --table       # as Markdown

Nothing is trained, and no TPU is needed (`pip install libtpu`): the step of
`dss-jax train` is compiled for slices that are not here, some minutes each.
Every slice is written to FILE as soon as it is done; started again, the command
goes on with those that FILE lacks. Load does not matter to these numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import measuring
import mesh
import students

from dss_jax.models.config import T5Config
from dss_jax.models.partitioning import Partitioner
from dss_jax.models.partitioning.logical_axes import DATA_AXIS, REPLICA_AXIS
from dss_jax.planning import (
  collectives,
  expected_traffic,
  plan_tables,
  run_plan,
  tpu_topology,
)
from dss_jax.planning.byte_sizes import shown
from dss_jax.training import optimizers

LENGTHS = (256, 128)  # tokens of an encoder and of a decoder row
ROWS_OF_CHIP = 20  # in all, a number that is no size of a student


@dataclasses.dataclass(frozen=True)
class Slice:
  """A step to compile.

  Attributes:
    student: of `STUDENTS`.
    topology: of the slice, as `--plan_topology`.
    chips_of_copy: over how many chips parameters are split.
    attention: the student's `attention_implementation`.
    rows_of_chip: rows of a batch.
  """

  student: str
  topology: str
  chips_of_copy: int
  attention: str = "auto"
  rows_of_chip: int = ROWS_OF_CHIP

  @property
  def name(self) -> str:
    """What tells it from others."""
    attention = "" if self.attention == "auto" else f", {self.attention}"
    return f"{self.student}, {self.topology}{attention}"


# As in `models/t5_1_1/*.gin`, scanned.
def _t5(size: str, remat_policy: str = "full") -> T5Config:
  return dataclasses.replace(
    students.STUDENTS[size],
    dropout_rate=0.1,
    scan_layers=True,
    remat_policy=remat_policy,
  )


STUDENTS = {
  "base": _t5("base", "minimal"),
  "large": _t5("large"),
  "XL": _t5("xl"),
  "XXL": dataclasses.replace(
    _t5("xl"), emb_dim=4096, num_heads=64, mlp_dim=10240
  ),
  "toy": dataclasses.replace(mesh.TOY, scan_layers=True, dtype="bfloat16"),
}
SLICES = [
  Slice("base", "v5e:2x4", 1),
  Slice("base", "v5e:2x4", 1, attention="xla"),
  Slice("large", "v5e:4x4", 4),
  Slice("XL", "v5e:8x8", 8),
  Slice("XXL", "v5e:16x16", 16),
  Slice("base", "v5p:2x2x2", 1),
  Slice("large", "v5p:2x2x4", 4),
  Slice("XL", "v5p:4x4x4", 4),
  Slice("XXL", "v5p:4x8x8", 8),
]
SMOKE = [Slice("toy", "v5e:2x2", 2, rows_of_chip=5)]


def compiled(case: Slice) -> dict[str, Any]:
  """Everything a plan says of a slice, and what the table needs besides."""
  sharded = case.chips_of_copy > 1
  partitioner = Partitioner(
    fully_sharded=sharded,
    fully_sharded_devices=case.chips_of_copy if sharded else None,
    fully_sharded_min_size=0 if case.student == "toy" else 2**14,
    devices=tuple(tpu_topology.devices(case.topology)),
  )
  config = dataclasses.replace(
    STUDENTS[case.student], attention_implementation=case.attention
  )
  rows = case.rows_of_chip * partitioner.mesh.size
  start = time.perf_counter()
  plan = mesh.planned(
    config, partitioner, 1, rows, LENGTHS, optimizers.Adafactor()
  )
  return {
    "name": case.name,
    **dataclasses.asdict(case),
    "chips": partitioner.mesh.size,
    "seconds": round(time.perf_counter() - start),
    **plan_tables.as_json(plan),
    "by_formula": _by_formula(plan),
    "gathered_of_batch": plan.step
    and sum(one.bytes for one in gathered_of_batch(plan.step.traffic, rows)),
  }


def _by_formula(plan: run_plan.RunPlan) -> Mapping[str, int]:
  """The traffic that docs/mesh.md expects, in the types of this compiler.

  All is bfloat16, half of the formula's float32, but the gradients of the tables
  outside the layers.
  """
  run = plan.run
  params = run.placed_params()
  mesh_shape = run.config.partitioner.mesh.shape
  expected = expected_traffic.expected_traffic(
    run.config.model.config, params, run.shape, mesh_shape
  )
  assert expected is not None
  outside = 0
  for param in params:
    if not param.in_layer:
      outside += param.bytes
      if param.fetched and mesh_shape[REPLICA_AXIS] > 1:  # Parts, summed again.
        outside += param.bytes // mesh_shape[DATA_AXIS]
  return {
    "gradients": (expected.gradients + outside) // 2,
    "parameters": expected.parameters // 2,
  }


def gathered_of_batch(
  traffic: collectives.Traffic, rows: int
) -> Iterator[collectives.Collective]:
  """All-gathers whose arrays have all rows of the batch, or are integers."""
  for one in traffic.of_kind("all-gather"):
    if any(dtype[0] in "su" or rows in dims for dtype, dims in one.shapes):
      yield one


HEADER = (
  "student", "slice", "chips of a copy", "rows", "attention", "parameters", "optimizer",
  "temporaries", "in all", "of memory", "summed", "scattered", "fetched",
  "by formula",
)  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as Markdown, in the order of `SLICES`."""
  lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
  order = {case.name: place for place, case in enumerate([*SMOKE, *SLICES])}
  for row in sorted(rows, key=lambda row: order.get(row["name"], len(order))):
    sizes, sent = row["bytes"], row["collectives"]
    cells = [row["student"], row["topology"], row["chips_of_copy"]]
    cells.append(row["batch_shape"]["rows"])
    if not sent:
      lines.append(f"| {' | '.join(map(str, cells))} | does not fit |")
      continue
    formula = row["by_formula"]
    cells += [
      "kernels" if row["kernels"] else "plain",
      *(
        shown(sizes[name])
        for name in ("parameters", "optimizer_state", "temporaries", "in_all")
      ),
      f"{sizes['in_all'] / sizes['device_memory']:.0%}",
      shown(sent["all-reduce"]["bytes"]),
      shown(sent["reduce-scatter"]["bytes"]),
      shown(sent["all-gather"]["bytes"]),
      f"{shown(formula['gradients'])}, {shown(formula['parameters'])}",
    ]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
  """Compiles what is not in the file yet, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--json", type=pathlib.Path, required=True)
  parser.add_argument("--only", default="", help="slices with this in the name")
  parser.add_argument(
    "--table", action="store_true", help="compile nothing, print the file"
  )
  parser.add_argument("--smoke", action="store_true", help="a toy, for tests")
  args = parser.parse_args(arguments)
  jax.config.update("jax_platforms", "cpu")
  report: dict[str, Any] = {"slices": []}
  if args.json.exists():
    report = json.loads(args.json.read_text(encoding="utf-8"))
  done = {row["name"] for row in report["slices"]}
  for case in () if args.table else SMOKE if args.smoke else SLICES:
    if case.name in done or args.only not in case.name:
      continue
    print(f"compiling {case.name} ...", flush=True)
    report |= measuring.description(
      "compiled for TPUs", packages=(*measuring.PACKAGES, "libtpu")
    )
    report["slices"].append(compiled(case))
    measuring.write_json(args.json, report)
  print(table(report["slices"]))


if __name__ == "__main__":
  measuring.run(main)
