"""Definitions: equal ones described alike, changed ones not."""

import dataclasses
import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np

from dss_jax.data.seqio import task_description

SCALE = 2


def scaled(x, by=1):
  return x * by * SCALE


def made(offset):
  def add(x):
    return x + offset

  return add


@dataclasses.dataclass
class Settings:
  a: int
  note: str = dataclasses.field(default="", compare=False)


class Thing:
  def __init__(self, value: Any):
    self.value = value

  def method(self, x):
    return x + self.value


def test_equal_definitions_have_equal_fingerprints():
  pairs = [
    (made(1), made(1)),
    (functools.partial(scaled, by=3), functools.partial(scaled, by=3)),
    (Settings(1, "x"), Settings(1, "y")),
    (Thing(2), Thing(2)),
    (Thing(2).method, Thing(2).method),
    ({"b": 1, "a": {1, 2}}, {"a": {2, 1}, "b": 1}),
    (np.arange(3), np.arange(3)),
    (
      lambda x: x + 1,
      # on another line
      lambda x: x + 1,
    ),
  ]
  for one, other in pairs:
    assert task_description.fingerprint(one) == task_description.fingerprint(
      other
    )


def test_changed_definitions_do_not():
  values = [
    made(1),
    made(2),
    scaled,
    functools.partial(scaled, by=3),
    functools.partial(scaled, by=4),
    Settings(1),
    Settings(2),
    Thing(2),
    Thing(3),
    Thing(3).method,
    np.arange(3),
    np.arange(3.0),
    b"x",
    "x",
    1,
    1.0,
    None,
    lambda x: x + 1,
    lambda x: x + 2,
    lambda x: x in (1, 2),
    lambda x, y=1: x,
    lambda x, y=2: x,
    lambda x: [i for i in x if i > 1],
    lambda x: [i for i in x if i > 2],
  ]
  prints = [task_description.fingerprint(value) for value in values]
  assert len(set(prints)) == len(prints)


def test_a_global_that_a_function_names_counts(monkeypatch):
  before = task_description.fingerprint(scaled)
  monkeypatch.setitem(globals(), "SCALE", 3)
  assert task_description.fingerprint(scaled) != before


def test_things_that_refer_to_themselves_end():
  thing = Thing(None)
  thing.value = thing
  assert task_description.fingerprint(thing) == task_description.fingerprint(
    thing
  )


def test_another_process_says_the_same(tmp_path):
  # From its file: the folder that it is in would import TensorFlow, twice.
  code = (
    "import runpy, types\n"
    f"task_description = types.SimpleNamespace("
    f"**runpy.run_path({task_description.__file__!r}))\n"
    "f = lambda x, y={'a', 'b', 'c'}: x in {'p', 'q', 'r'}\n"
    "print(task_description.fingerprint(f, {'k', 'l', 'm'}, object()))\n"
  )
  script = tmp_path / "script.py"
  script.write_text(code)
  prints = {
    subprocess.run(
      [sys.executable, str(script)],
      env={
        **os.environ,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)
        + os.pathsep
        + os.getcwd(),
      },
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for seed in ("1", "2")
  }
  assert len(prints) == 1


def test_files_are_known_by_size_and_time(tmp_path):
  path = tmp_path / "data.txt"
  path.write_text("one")
  before = task_description.files([str(path)])
  os.utime(path, ns=(1, 1))
  assert task_description.files([str(path)]) != before
  assert task_description.files(["gs://bucket/x", "train"]) == [
    ["gs://bucket/x"],
    ["train"],
  ]
