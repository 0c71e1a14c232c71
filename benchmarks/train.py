"""Training against the official recipe on Hugging Face, on the same token ids.

    python benchmarks/train.py                                   # synthetic, CQA's lengths
    python benchmarks/train.py --data_dir DIR --vocabulary SPM_MODEL --json FILE
    python benchmarks/train.py --sides ours plain official bf16 compiled

ours          the step of `dss-jax train`: packed rows, AdamW, clip norm 1
plain         the same step with every fast way of computing switched off
official      two padded forward passes a step, float32 (`recipe_training.py`)
kept_memory   official, freed memory kept for the next step as in ours
one_forward   the same losses from one pass over both halves
bf16          official, under autocast
compiled      official, under autocast, by torch.compile, lengths in steps of 32

Each side has a process of its own, the same environment and all cores; turns
of some steps are interleaved (A B, B A, ...), and whoever waits does nothing.
Before, both are asked for their losses on the same records from the same
weights without dropout, before and after updates: they must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import measuring
import prepare
import sides
import students
from workers import Worker


def value_of(text: str) -> tuple[str, Any]:
  """NAME=VALUE, the value as JSON or else as it stands."""
  name, _, value = text.partition("=")
  try:
    return name, json.loads(value)
  except ValueError:
    return name, value


def check(args, weights: str, environment: dict) -> dict[str, Any]:
  """Both libraries' losses; writes the weights that they start from.

  Raises:
    SystemExit: they differ by more than `--tolerance`.
  """
  found = sides.compare_losses(
    args.student,
    args.batches,
    weights,
    environment=environment,
    count=args.check,
    model=args.model,
  )
  print(
    f"losses without dropout, ours {_listed(found['ours'])}, theirs"
    f" {_listed(found['official'])}: {found['difference']:.1e} apart"
  )
  if not found["difference"] <= args.tolerance:
    raise SystemExit(f"the losses differ by more than {args.tolerance}")
  return found


def _listed(losses: Sequence[float]) -> str:
  return " ".join(f"{loss:.5f}" for loss in losses)


def start(args, name: str, environment: dict, **options: Any) -> Worker:
  return sides.start(
    name, args.student, args.batches, environment=environment, **options
  )


def options_of(args, name: str) -> dict[str, Any]:
  """The command line of a side."""
  if name in sides.OURS:
    return {
      "model": {"dropout_rate": args.dropout, **args.model},
      "optimizer": args.optimizer,
      "num_microbatches": args.num_microbatches,
    }
  weights = {"weights": args.weights} if args.weights else {}
  return {
    "model": {"dropout_rate": args.dropout},
    "num_microbatches": args.num_microbatches,
    **weights,
  }


def measure(args, environment: dict) -> dict[str, Any]:
  """Every side's turns, its memory, and the products' rate."""
  workers: dict[str, Worker] = {}
  found: dict[str, Any] = {}
  try:
    for name in args.sides:
      options = options_of(args, name)
      workers[name] = start(args, name, environment, **options)
      found[name] = {
        **workers[name].ask("description"),
        **workers[name].ask("warm_up", steps=args.warm_up),
        "turns": {},
      }
    for name in measuring.turns(args.sides, args.turns):
      answer = workers[name].ask("steps", count=args.steps)
      sides.add_turn(found[name]["turns"], answer)
    for name, worker in workers.items():
      found[name]["memory"] = worker.ask("memory")
      if name in sides.OURS:
        found[name]["program_memory"] = worker.ask("program_memory")
      found[name]["summary"] = sides.summary(found[name]["turns"], args.steps)
  finally:
    for worker in workers.values():
      worker.close()
  with Worker(
    "matmul", {}, name="products", environment=environment
  ) as products:
    size, dtype = (512, "float32") if args.smoke else (2048, "float32")
    if next(iter(found.values()))["platform"] in ("gpu", "cuda"):
      size, dtype = 8192, "bfloat16"
    peak = products.ask("rate", size=size, dtype=dtype)
  return {"sides": found, "matmul": peak}


def ratios(found: dict[str, Any]) -> list[str]:
  """Each other side against the first."""
  first, *others = found
  a = found[first]["summary"]
  lines = []
  for name in others:
    b = found[name]["summary"]
    memory = (
      found[first]["memory"]["peak_bytes"] / found[name]["memory"]["peak_bytes"]
    )
    lines.append(
      f"{first} / {name}: {a['records_per_s'] / b['records_per_s']:.2f}x"
      f" records/s, {a['records_per_cpu_s'] / b['records_per_cpu_s']:.2f}x"
      f" records per CPU second, {memory:.0%} of its peak memory"
    )
  return lines


def report_on(args, measured: dict[str, Any]) -> None:
  """Prints the table."""
  found, peak = measured["sides"], measured["matmul"]
  rows = [sides.row(name, side, args.steps) for name, side in found.items()]
  print(measuring.table(sides.HEADER, rows))
  print("\n".join(ratios(found)))
  for name, side in found.items():
    turns = side["turns"]
    totals = (sum(turns[key]) for key in ("flops", "wall_s", "cpu_s"))
    share = measuring.share_of_products(peak, *totals)
    print(f"{name}: {share:.0%} of the products' rate, by useful FLOPs")
  for name, side in found.items():
    if program := side.get("program_memory"):
      print(
        f"{name}: XLA plans {program['total'] / 2**30:.2f} GiB,"
        f" {program['temp'] / 2**30:.2f} of them temporary"
      )
  print(
    f"products of {peak['size']}^3, {peak['dtype']}:"
    f" {peak['flops_per_s'] / 1e9:,.0f} GFLOP/s,"
    f" {peak['flops_per_cpu_s'] / 1e9:,.0f} a CPU second; load average"
    f" {os.getloadavg()[0]:.1f} on {measuring.cores()} cores"
  )


def parsed(arguments: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--sides", nargs="+", choices=sides.SIDES, default=["ours", "official"])
  add("--student", choices=students.STUDENTS, default="bench")
  add("--batches", help="folder of prepare.py; else they are made now")
  add("--data_dir", help="folder with the released data")
  add("--vocabulary", default="bytes", help="with --data_dir: name or model")
  add("--records", type=int, default=64, help="records a batch")
  add("--attention_length", type=int, default=600, help="less: shorter rows")
  add("--encoder_length", type=int, help="of a row, in tokens")
  add("--decoder_length", type=int, help="of a row, in tokens")
  add("--model", nargs="+", type=value_of, default=[], metavar="NAME=VALUE",
      help="settings of our T5Config")  # fmt: skip
  add("--dropout", type=float, default=0.1, help="of all sides")
  add("--optimizer", default="adamw", choices=("adamw", "adafactor"),
      help="ours; theirs is AdamW")  # fmt: skip
  add("--num_microbatches", type=int, default=1, help="of all sides")
  add("--steps", type=int, default=4, help="of a turn")
  add("--turns", type=int, default=5)
  add("--warm_up", type=int, default=2, help="steps before the first turn")
  add("--check", type=int, default=2, help="losses to compare; 0: none")
  add("--tolerance", type=float, default=2e-4, help="of losses, relative")
  add("--environment", nargs="+", type=value_of, default=[],
      metavar="NAME=VALUE", help="variables of all sides")  # fmt: skip
  add("--smoke", action="store_true", help="a toy, for tests")
  add("--json", help="file to write")
  args = parser.parse_args(arguments)
  args.model = dict(args.model)
  args.weights = None
  if args.smoke:
    args.student, args.warm_up, args.steps, args.turns = "toy", 1, 2, 2
  return args


def write_batches(args, folder: pathlib.Path) -> pathlib.Path:
  """The batches that all sides train on."""
  if args.smoke:
    examples = prepare.example_set(None, "", **prepare.SMOKE_EXAMPLES)
    return prepare.write(folder, examples, steps=2, **prepare.SMOKE_BATCHES)
  return prepare.write(
    folder,
    prepare.example_set(args.data_dir, args.vocabulary),
    records=args.records,
    steps=8,
    attention_length=args.attention_length,
    encoder_length=args.encoder_length,
    decoder_length=args.decoder_length,
    rows_multiple_of=args.num_microbatches,
  )


def main(arguments: list[str] | None = None) -> None:
  args = parsed(arguments)
  environment = {name: str(value) for name, value in args.environment}
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    if args.smoke:
      environment = sides.SMOKE_ENVIRONMENT
    else:
      # What is compiled to be timed is read again to tell its memory.
      cache = str(folder / "cache")
      environment.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    if args.batches is None:
      args.batches = write_batches(args, folder)
    print(f"{args.student} student, {pathlib.Path(args.batches).name}")
    description = measuring.description()
    checked = None
    if args.check and {"ours", "official"} <= set(args.sides):
      args.weights = str(folder / "weights.npz")
      checked = check(args, args.weights, environment)
    measured = measure(args, environment)
  report_on(args, measured)
  description["load_after"] = os.getloadavg()
  settings = {
    name: value
    for name, value in vars(args).items()
    if isinstance(value, (int, float, str, list, dict))
  }
  measuring.write_json(
    args.json,
    {**description, "settings": settings, "losses": checked, **measured},
  )


if __name__ == "__main__":
  measuring.run(main)
