"""Fuzzes targets one after another, or several at once, and says what it did.

Each target runs in a process of its own under libFuzzer, by Atheris. What an
input covers is kept, in `.fuzz/NAME/corpus`, and a later run goes on from there;
an input that shows a fault lies in `.fuzz/NAME`, next to the log.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from fuzz import targets

# Of CPU time, which a busy machine changes little. It is one second without
# Atheris, which makes what it watches several times slower. (libFuzzer's own
# limit counts seconds of the clock; it ends what never returns.)
HANG_SECONDS = 5.0
_NEVER_RETURNS_SECONDS = 120
_ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Fuzzed:
  """How a target's run ended.

  Attributes:
    name: the target's.
    executions: inputs that were tried.
    seconds: by the clock.
    features: what libFuzzer counts of the code that inputs reached.
    fault: how the log says that a fault was found; "" for none.
  """

  name: str
  executions: int
  seconds: float
  features: int
  fault: str


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; the exit status is 1 where a fault was found."""
  args = _parser().parse_args(arguments)
  known = dict(targets.all_targets())
  for name in args.targets:
    if not any(_is_meant(name, each) for each in known):
      print(f"no target {name!r}; there are {', '.join(known)}")
      return 2
  wanted = [
    name
    for name in known
    if not args.targets or any(_is_meant(each, name) for each in args.targets)
  ]
  commands = {name: _command(name, known[name], args) for name in wanted}
  with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
    done = []
    for found in pool.map(_fuzz, commands, commands.values()):
      done.append(found)
      print(
        f"{found.name:<26} {found.executions:>10,} executions"
        f" {found.seconds:>6.0f} s {found.features:>6} features"
        f"  {found.fault}",
        flush=True,
      )
  faults = sum(bool(found.fault) for found in done)
  total = sum(found.executions for found in done)
  print(f"{total:,} executions of {len(done)} targets, {faults} with a fault")
  return int(faults > 0)


def _is_meant(given: str, name: str) -> bool:
  """Whether a name given by the user is a target's, or its family's."""
  return given in (name, name.partition(".")[0])


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fuzz", description=(__doc__ or "").partition("\n")[0]
  )
  parser.add_argument("targets", nargs="*", help="targets or families; all")
  parser.add_argument(
    "--executions", type=int, default=-1, help="of each target, at most"
  )
  parser.add_argument(
    "--seconds", type=int, default=30, help="of each target, at most"
  )
  parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
  parser.add_argument("--seed", type=int, default=0, help="0 draws one")
  parser.add_argument(
    "--memory_mb",
    type=int,
    default=2048,
    help="a process may take; then a fault",
  )
  parser.add_argument(
    "--folder", default=".fuzz", help="of logs, corpora and faults"
  )
  return parser


def _command(
  name: str, target: targets.Target, args: argparse.Namespace
) -> list[str]:
  """Writes the inputs to begin with; returns libFuzzer's command."""
  folder = pathlib.Path(args.folder, name).absolute()
  corpus, seeds = folder / "corpus", folder / "seeds"
  corpus.mkdir(parents=True, exist_ok=True)
  shutil.rmtree(seeds, ignore_errors=True)
  seeds.mkdir()
  for number, seed in enumerate(target.seeds()):
    (seeds / str(number)).write_bytes(seed)
  command = [
    *(sys.executable, "-m", "fuzz.one_target", name),
    f"-runs={args.executions}",
    f"-max_total_time={args.seconds}",
    f"-seed={args.seed}",
    f"-max_len={target.max_bytes}",
    f"-rss_limit_mb={args.memory_mb}",
    f"-timeout={_NEVER_RETURNS_SECONDS}",
    f"-artifact_prefix={folder}/",
    "-print_final_stats=1",
  ]
  if target.words:  # libFuzzer refuses an empty dictionary
    words = folder / "words.txt"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    command.append(f"-dict={words}")
  return [*command, str(corpus), str(seeds)]


def _fuzz(name: str, command: list[str]) -> Fuzzed:
  path = pathlib.Path(command[-1]).parent / "log.txt"
  started = time.monotonic()
  with (
    tempfile.TemporaryDirectory(dir=_in_memory()) as temporary,
    path.open("w+", errors="replace") as log,
  ):
    process = subprocess.run(
      command,
      cwd=_ROOT,
      env=os.environ | {"TMPDIR": temporary},
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      check=False,
    )
    log.seek(0)
    said = log.read()
  executions = re.findall(r"stat::number_of_executed_units: (\d+)", said)
  features = re.findall(r"\bft: (\d+)", said)
  fault = ""
  if process.returncode or not executions:
    fault = f"exit status {process.returncode}, see {path}"
  return Fuzzed(
    name,
    int(executions[-1]) if executions else 0,
    time.monotonic() - started,
    int(features[-1]) if features else 0,
    fault,
  )


def _in_memory() -> str | None:
  """Where files cost no disk, if there is such a place."""
  return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _escaped(word: str) -> str:
  """A word as libFuzzer's dictionaries have it."""
  return "".join(
    chr(byte)
    if 0x20 <= byte < 0x7F and chr(byte) not in '"\\'
    else f"\\x{byte:02x}"
    for byte in word.encode()
  )


if __name__ == "__main__":
  sys.exit(main())
