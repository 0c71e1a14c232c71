"""What is measured on one GPU: training's MFU, Hugging Face's, and the rest.

    benchmarks/gpu.sh --quick --out FOLDER     # at most 6 minutes: all that matters
    benchmarks/gpu.sh --more --out FOLDER      # at most 4: other ways, the best guesses first
    benchmarks/gpu.sh --more --seconds 1500    # and the rest of them
    benchmarks/gpu.sh --smoke                  # all of it in small, on a CPU

A case has a process of its own and a time limit: cases that no time is left for
are left out, the last ones first. Whatever a case comes to, running out of
memory too, is in FOLDER/quick.json or FOLDER/more.json at once.

MFU is useful FLOPs (`dss_jax.models.flops`, padding left out) a second over
what products of 8192^3 in bfloat16 reach in the same run; the datasheet's rate
stands next to it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import measuring
import prepare
import sides
from workers import Worker, WorkerError

from dss_jax.base.errors import one_line

# Of a whole call, the start of Python included.
SECONDS = {"quick": 350.0, "more": 230.0}
# Less is not worth starting a case for.
_LEAST_SECONDS = 20.0
_HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Case:
  """Training of one side.

  Attributes:
    side: of `sides.SIDES`.
    student: of `students.STUDENTS`.
    records: a batch.
    rows: which of the prepared row lengths, from the shortest.
    options: of the side.
    limit: seconds it may take.
  """

  side: str
  student: str
  records: int
  rows: int = 0
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  limit: float = 150.0

  @property
  def name(self) -> str:
    settings = {**self.options, **self.options.get("model", {})}
    settings.pop("model", None)
    changes = [f"{name}={value}" for name, value in settings.items()]
    return " ".join([self.side, self.student, str(self.records), *changes])


def ours(student: str, records: int, rows: int = 0, **model: Any) -> Case:
  """Ours in bfloat16; `num_microbatches` is the step's, the rest the model's."""
  parts = model.pop("num_microbatches", 1)
  options: dict[str, Any] = {"model": model} if model else {}
  if parts > 1:
    options["num_microbatches"] = parts
  return Case("ours", student, records, rows, options)


def theirs(side: str, student: str, records: int, parts: int = 1) -> Case:
  """Hugging Face's; compiling has more time."""
  options = {"num_microbatches": parts} if parts > 1 else {}
  limit = 200.0 if side.startswith("compiled") else 100.0
  return Case(side, student, records, 0, options, limit)


@dataclasses.dataclass(frozen=True)
class Other:
  """Another benchmark.

  Attributes:
    name: of its script.
    arguments: of the script, in full and in small.
    limit: seconds it may take.
    with_batches: whether it reads the prepared ones.
  """

  name: str
  arguments: tuple[str, ...]
  smoke: tuple[str, ...]
  limit: float
  with_batches: bool = False


# Each kernel against plain attention, values and gradients, and its time.
ATTENTION = Other(
  "attention",
  ("--shapes", "base 256/96", "base 512/192", "--layers=2", "--repeats=10"),
  ("--smoke",),
  60,
)
DECODE = Other(
  "decode",
  (
    "--student=base",
    "--ways=batches",
    "--kinds",
    "labels",
    "forced",
    "--batch_sizes=64",
    "--examples=128",
    "--repeats=3",
  ),
  (
    "--smoke",
    "--ways=batches",
    "--kinds=labels",
    "--batch_sizes=4",
    "--examples=4",
    "--repeats=1",
  ),
  70,
)
COMPONENTS = Other(
  "components",
  ("--student=base", "--matmul_size=8192"),
  ("--smoke",),
  180,
  with_batches=True,
)


def quick() -> list[Case | Other]:
  """What is asked first; layers scanned where compiling them takes long."""
  return [
    ATTENTION,
    ours("base", 64),
    ours("base", 512, scan_layers=True),
    ours("large", 64, scan_layers=True),
    ours("large", 512, scan_layers=True, num_microbatches=4),
    theirs("compiled", "base", 64),
    DECODE,
  ]


def more() -> list[Case | Other]:
  """What may be faster, the best guesses first, and other comparisons."""
  xla = {"attention_implementation": "xla"}
  triton = {"attention_implementation": "triton"}
  return [
    ours("base", 512),
    ours("base", 512, 2, **triton),
    ours("large", 512, remat_policy="minimal", scan_layers=True),
    theirs("compiled_one_forward", "base", 64),
    theirs("bf16", "base", 64),
    ours("base", 512, 0, **xla),
    ours("large", 64),
    theirs("compiled", "base", 512, parts=4),
    theirs("official", "base", 64),
    theirs("compiled", "large", 64),
    COMPONENTS,
    ours("base", 512, rows=1),
    ours("base", 512, rows=3),
    ours("base", 64, rows=1),
    ours("base", 64, scan_layers=True),
    ours("large", 512, num_microbatches=4),
    ours("base", 512, dropout_rate=0.0),
    theirs("official", "base", 512, parts=4),
    theirs("official", "large", 64),
  ]


def smoke(call: str) -> list[Case | Other]:
  """As the calls, in small; one of the cases must fail and be reported."""
  if call == "quick":
    broken = Case("ours", "toy", 6, 0, {"model": {"dtype": "float99"}})
    return [ATTENTION, broken, ours("toy", 6, num_microbatches=2), DECODE]
  return [theirs("official", "toy", 6, parts=2), COMPONENTS]


class Call:
  """A call's cases, its file, and the time it has left."""

  def __init__(self, name: str, args, environment: dict[str, str]):
    self.name, self.args = name, args
    self._environment = environment
    self._end = time.monotonic() + (args.seconds or SECONDS[name])
    self._folder = pathlib.Path(args.batches)
    self.report = {**measuring.description(), "call": name, "cases": []}

  def left(self, limit: float = 1e9) -> float:
    """Seconds that something with this limit may take."""
    return min(limit, self._end - time.monotonic())

  def add(self, name: str, run: Callable[[], dict]) -> dict[str, Any]:
    """Runs a case, unless there is no time left, and keeps what it found."""
    found: dict[str, Any] = {"name": name}
    started = time.monotonic()
    if self.left() < (_LEAST_SECONDS if not self.args.smoke else 0):
      found["left_out"] = "no time left"
    else:
      try:
        found.update(run())
      except Exception as error:
        # Minutes on a GPU are dear: whatever it is, the next case is tried.
        found["failed"] = one_line(error)
    found["seconds"] = round(time.monotonic() - started, 1)
    self.report["cases"].append(found)
    measuring.write_json(self.args.out / f"{self.name}.json", self.report)
    status = found.get("failed") or found.get("left_out") or "done"
    print(f"[{self.name}] {name}: {status}, {found['seconds']} s", flush=True)
    return found

  def products(self) -> dict[str, Any]:
    """The rate of products of matrices."""
    size, dtype = (256, "float32") if self.args.smoke else (8192, "bfloat16")
    with Worker(
      "matmul",
      {},
      name="products",
      environment=self._environment,
      seconds=self.left(90),
    ) as worker:
      return worker.ask("rate", size=size, dtype=dtype, seconds=self.left(60))

  def train(self, case: Case) -> dict[str, Any]:
    """Compiles and times a case, as many steps as a second holds."""
    end = time.monotonic() + self.left(case.limit)

    def left() -> float:
      return end - time.monotonic()

    folders = prepare.found(self._folder, case.records)
    folder = folders[min(case.rows, len(folders) - 1)]
    found: dict[str, Any] = {**dataclasses.asdict(case), "batches": folder.name}
    with sides.start(
      case.side,
      case.student,
      folder,
      environment=self._environment,
      seconds=left(),
      **case.options,
    ) as worker:
      found.update(worker.ask("description", seconds=left()))
      found.update(worker.ask("warm_up", steps=2, seconds=left()))
      (wall,) = worker.ask("steps", count=1, seconds=left())["wall_s"]
      steps = max(1, min(50, round(self.args.turn_seconds / wall)))
      turns: dict[str, list] = {}
      for _ in range(self.args.turns):
        sides.add_turn(turns, worker.ask("steps", count=steps, seconds=left()))
      found |= {"steps": steps, "turns": turns}
      found["summary"] = sides.summary(turns, steps)
      found["memory"] = worker.ask("memory", seconds=left())
      if case.side in sides.OURS:
        try:
          answer = worker.ask("program_memory", seconds=left())
        except WorkerError as error:  # the timings stand
          answer = {"failed": str(error)}
        found["program_memory"] = answer
    return found

  def check(self, temporary: str) -> dict[str, Any]:
    """Both libraries' losses on the same records, both in float32."""
    folders = prepare.found(self._folder, 6 if self.args.smoke else 64)
    return sides.compare_losses(
      "toy" if self.args.smoke else "base",
      folders[0],
      str(pathlib.Path(temporary) / "weights.npz"),
      environment={
        **self._environment,
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
      },
      count=1,
      seconds=self.left(120),
      model={"dtype": "float32"},
    )

  def other(self, other: Other) -> dict[str, Any]:
    """Runs it as a whole; its own file holds what it found."""
    file = self.args.out / f"{other.name}.json"
    script = str(_HERE / f"{other.name}.py")
    command = [sys.executable, script, "--json", str(file)]
    command += other.smoke if self.args.smoke else other.arguments
    if other.with_batches and not self.args.smoke:
      command += ["--batches", str(prepare.found(self._folder, 512)[0])]
    seconds = self.left(other.limit)
    try:
      done = subprocess.run(
        command,
        env={**os.environ, **sides.ENVIRONMENT, **self._environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
      )
    except subprocess.TimeoutExpired as error:
      raise WorkerError(f"took longer than {seconds:.0f} s") from error
    print(done.stdout, flush=True)
    if done.returncode:
      last = done.stderr.strip().split("\n")[-1][:300]
      raise WorkerError(f"exit status {done.returncode}: {last}")
    return {"file": file.name}


def run(name: str, args, environment: dict[str, str], temporary: str) -> None:
  """Runs and prints one call."""
  call = Call(name, args, environment)
  peak = call.add("products", call.products)
  if name == "more":
    found = call.add("losses", lambda: call.check(temporary))
    if "difference" in found:
      print(f"losses of both libraries: {found['difference']:.1e} apart")
  done = []
  cases = quick() if name == "quick" else more()
  for case in smoke(name) if args.smoke else cases:
    if isinstance(case, Other):
      call.add(case.name, lambda case=case: call.other(case))
      continue
    found = call.add(case.name, lambda case=case: call.train(case))
    if "summary" in found:
      done.append(found)
  if done:
    print_table(done, peak)
    print_ratios(done)


def print_ratios(cases: Sequence[dict[str, Any]]) -> None:
  """The best of ours against each of theirs, of a student and a batch."""
  for case in cases:
    if case["side"] in sides.OURS:
      continue
    rates = [
      other["summary"]["records_per_s"]
      for other in cases
      if other["side"] in sides.OURS
      and (other["student"], other["records"])
      == (case["student"], case["records"])
    ]
    if rates:
      ratio = max(rates) / case["summary"]["records_per_s"]
      print(f"ours / {case['name']}: {ratio:.2f}x records/s")


def print_table(cases: Sequence[dict[str, Any]], peak: dict[str, Any]) -> None:
  """Every case that came to an end."""
  rate = peak.get("flops_per_s")
  sheet = measuring.datasheet_flops_per_s(peak.get("device", ""))
  rows = []
  for case in cases:
    useful = case["summary"]["flops_per_s"]
    row = sides.row(case["name"], case, case["steps"])
    row.insert(1, case["batches"].partition("-")[2])
    row += [f"{useful / each:.1%}" if each else "" for each in (rate, sheet)]
    rows.append(row)
  header = [*sides.HEADER, "MFU", "of datasheet"]
  header.insert(1, "rows")
  print(measuring.table(header, rows))
  if rate:
    print(
      f"products of {peak['size']}^3 in {peak['dtype']}:"
      f" {rate / 1e12:,.1f} TFLOP/s on {peak['device']}"
    )


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  for name in SECONDS:
    add(f"--{name}", dest="calls", action="append_const", const=name)
  add("--batches", default=str(prepare.FOLDER), help="folder of prepare.py")
  add("--out", type=pathlib.Path, default=_HERE / "build" / "gpu")
  add("--seconds", type=float, help="of a call, in place of its own")
  add("--turns", type=int, default=5, help="timed, of each case")
  add("--turn_seconds", type=float, default=1.0, help="of a turn, about")
  add("--smoke", action="store_true", help="in small, on a CPU")
  args = parser.parse_args(arguments)
  if not args.calls:
    if not args.smoke:
      parser.error("say --quick or --more")
    args.calls = list(SECONDS)
  args.out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as temporary:
    cache = str(pathlib.Path(temporary) / "cache")
    environment = {
      "JAX_COMPILATION_CACHE_DIR": cache,
      "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
    }
    if args.smoke:
      environment = sides.SMOKE_ENVIRONMENT
      args.turns, args.turn_seconds, args.batches = 2, 0.02, temporary
      prepare.write(
        pathlib.Path(temporary),
        prepare.example_set(None, "", **prepare.SMOKE_EXAMPLES),
        steps=2,
        rows_multiple_of=2,
        **prepare.SMOKE_BATCHES,
      )
    elif not prepare.found(pathlib.Path(args.batches), 64):
      raise SystemExit(
        f"{args.batches} holds no batches: run python benchmarks/prepare.py"
      )
    for name in args.calls:
      run(name, args, environment, temporary)


if __name__ == "__main__":
  measuring.run(main)
