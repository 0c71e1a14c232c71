"""The fuzzers' targets, with random changes; `make fuzz` is guided by coverage."""

import importlib.util
import random
import re
import subprocess
import sys

import guards
import pytest

from fuzz import targets

NAMES = [
  f"{family}.{name}"
  for family in targets.FAMILIES
  for name in importlib.import_module(f"fuzz.{family}").TARGETS
]


@pytest.fixture(scope="module")
def seeds():
  """The inputs that each target begins with, made once."""
  found: dict[str, list[bytes]] = {}

  def get(name: str) -> list[bytes]:
    if name not in found:
      found[name] = list(targets.find(name).seeds())
    return found[name]

  return get


@pytest.mark.parametrize("name", NAMES)
def test_targets_take_what_fuzzing_begins_with(name, seeds):
  target = targets.find(name)
  accepted = [target.accepts(seed) for seed in seeds(name)]
  assert accepted[0]
  assert all(len(seed) <= target.max_bytes for seed in seeds(name))


def changed(seed: bytes, words: tuple[str, ...], draw: random.Random) -> bytes:
  """A seed with a few bytes changed, put in, taken out or doubled."""
  data = bytearray(seed)
  for _ in range(draw.choice((1, 1, 2, 8))):
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice((1, 1, 4, 32)))
    change = draw.randrange(6)
    if change == 0:
      data[at:end] = draw.randbytes(end - at)
    elif change == 1:
      del data[at:end]
    elif change == 2:
      data[at:at] = data[at:end] * draw.choice((1, 20))
    elif change == 3:
      del data[at:]
    elif change == 4 and words:
      data[at:end] = draw.choice(words).encode()
    elif at < len(data):
      data[at] ^= 1 << draw.randrange(8)
  return bytes(data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
  "count", [12, pytest.param(1000, marks=pytest.mark.thorough)]
)
def test_changed_inputs_are_taken_or_refused(name, count, seeds):
  target = targets.find(name)
  draw = random.Random(name)
  for _ in range(count):
    data = changed(draw.choice(seeds(name)), target.words, draw)
    data = data[: target.max_bytes]
    with guards.cpu_limit(20):
      try:
        target.accepts(data)
      except Exception as error:
        raise AssertionError(f"{name} of {data!r}") from error


def test_what_no_refusal_is_passes():
  def parse(data: bytes) -> None:
    raise LookupError(data)

  target = targets.Target(parse, lambda: [])
  with pytest.raises(LookupError):
    target.accepts(b"")


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("atheris") is None,
  reason="needs Atheris (pip install --group fuzz)",
)
def test_the_command_counts_its_executions(tmp_path, repository):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "fuzz", "expressions", "http.predict"),
      *("--executions=500", f"--folder={tmp_path}"),
    ],
    cwd=repository,
    stdout=subprocess.PIPE,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout
  counts = re.findall(r"^(\S+) +([\d,]+) executions", done.stdout, re.M)
  assert [name for name, _ in counts] == [
    "expressions.arithmetic",
    "http.predict",
  ]
  assert all(int(count.replace(",", "")) >= 500 for _, count in counts)
  assert list((tmp_path / "http.predict" / "corpus").iterdir())
