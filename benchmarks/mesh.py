"""What a step takes on each device, and what devices send, by mesh and policy.

    python benchmarks/mesh.py                 # both tables, a few minutes
    python benchmarks/mesh.py --json FILE
    python benchmarks/mesh.py --smoke         # one line of each, a toy

Nothing is trained: steps are compiled from shapes, for eight simulated devices
or one, and the compiler's own figures are read. The student is
`models/bench.gin` with AdamW. Load does not matter to these numbers. T5 on TPU
slices: `tpu_slices.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import students

from dss_jax import vocabularies
from dss_jax.data import pipeline
from dss_jax.data.packing import packing_plans
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.models.partitioning import Partitioner
from dss_jax.planning import abstract_run, plan_tables, run_plan
from dss_jax.planning.byte_sizes import shown
from dss_jax.training import optimizers, train_config

# Dropout draws masks, which are kept for the backward pass.
BENCH = dataclasses.replace(students.BENCH, dropout_rate=0.1)
TOY = dataclasses.replace(
  BENCH, vocab_size=64, emb_dim=16, num_encoder_layers=1, num_decoder_layers=1
)
SCAN = {"scan_layers": True}
# Changes of the student, micro-batches.
POLICIES: list[tuple[dict[str, Any], int]] = [
  ({}, 1),
  ({}, 4),
  (SCAN, 1),
  (SCAN, 4),
  ({"remat_policy": "minimal", **SCAN}, 1),
  ({"remat_policy": "minimal", **SCAN}, 4),
  ({"remat_policy": "full", **SCAN}, 1),
  ({"remat_policy": "full", **SCAN}, 4),
]
FULLY = {"fully_sharded": True}
# Settings of the mesh, changes of the student, micro-batches.
MESHES: list[tuple[dict[str, Any], dict[str, Any], int]] = [
  ({}, SCAN, 1),
  ({}, SCAN, 4),
  (FULLY, SCAN, 1),
  (FULLY, {"remat_policy": "full", **SCAN}, 1),
  (FULLY, {"remat_policy": "full", **SCAN}, 4),
  ({"num_partitions": 2}, SCAN, 1),
  ({"num_partitions": 4}, SCAN, 1),
  ({"num_partitions": 2, **FULLY}, {"remat_policy": "full", **SCAN}, 1),
]


def constant(step):
  """A learning rate; its value does not matter."""
  del step
  return jnp.float32(0.1)


def planned(
  student: T5Config,
  partitioner: Partitioner,
  num_microbatches: int,
  rows: int,
  lengths: tuple[int, int] = (128, 64),
  optimizer: Any = None,
) -> run_plan.RunPlan:
  """The plan of a run on rows of 128 + 64 tokens, or of other lengths."""
  run = abstract_run.of_shape(
    train_config.TrainConfig(
      model=EncoderDecoderModel(student),
      model_dir="never made",
      vocabulary=vocabularies.from_name("bytes"),
      optimizer=optimizer or optimizers.AdamW(),
      learning_rate_fn=constant,
      train_dataset_cfg=pipeline.DatasetConfig("taxonli_dss"),
      total_steps=1,
      partitioner=partitioner,
      num_microbatches=num_microbatches,
    ),
    packing_plans.BatchShape(rows, *lengths, rows),
    ("label", "rationale"),
  )
  return run_plan.make_plan(run, attempts=0)


def by_policy(student: T5Config, policies: Sequence[Any]) -> list[Any]:
  """Temporary arrays of one device, 32 rows a batch."""
  one = Partitioner(devices=tuple(jax.devices()[:1]))
  print("| scan | remat | micro-batches | temporaries |")
  print("|---|---|---|---|")
  rows = []
  for changes, micro in policies:
    config = dataclasses.replace(student, **changes)
    found = planned(config, one, micro, rows=32)
    assert found.step is not None
    print(
      f"| {'yes' if config.scan_layers else 'no'} | {config.remat_policy}"
      f" | {micro} | {shown(found.step.temporaries or 0)} |",
      flush=True,
    )
    rows.append({"changes": changes} | plan_tables.as_json(found))
  return rows


def by_mesh(student: T5Config, meshes: Sequence[Any]) -> list[Any]:
  """Bytes of one of eight devices, 64 rows a batch."""
  print(
    "| mesh | remat | micro-batches | parameters | optimizer | temporaries"
    " | all-reduce | all-gather | by formula |"
  )
  print("|---|---|---|---|---|---|---|---|---|")
  rows = []
  for settings, changes, micro in meshes:
    partitioner = Partitioner(**settings)
    config = dataclasses.replace(student, **changes)
    found = planned(config, partitioner, micro, rows=64)
    assert found.step is not None
    assert found.expected is not None
    sizes = (
      found.parameters,
      found.optimizer,
      found.step.temporaries or 0,
      found.step.traffic.bytes_per_step("all-reduce"),
      found.step.traffic.bytes_per_step("all-gather"),
    )
    expected = found.expected
    name = " x ".join(map(str, partitioner.mesh.devices.shape))
    if partitioner.fully_sharded:
      name += ", fully sharded"
    cells = [
      name,
      config.remat_policy,
      str(micro),
      *map(shown, sizes),
      f"{shown(expected.gradients + expected.activations)},"
      f" {shown(expected.parameters)}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    rows.append({"changes": changes} | plan_tables.as_json(found))
  return rows


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(
    description=(__doc__ or "").partition("\n")[0]
  )
  parser.add_argument("--smoke", action="store_true", help="a toy, for tests")
  parser.add_argument("--json", help="file to write")
  args = parser.parse_args(arguments)
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 8)
  student = TOY if args.smoke else BENCH
  policies = POLICIES[:1] if args.smoke else POLICIES
  meshes = MESHES[:1] if args.smoke else MESHES
  found = measuring.description(str(jax.devices()[0]))
  found["by_policy"] = by_policy(student, policies)
  print()
  found["by_mesh"] = by_mesh(student, meshes)
  measuring.write_json(args.json, found)


if __name__ == "__main__":
  measuring.run(main)
