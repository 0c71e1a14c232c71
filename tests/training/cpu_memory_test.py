"""What the C library keeps, in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

from dss_jax.models.config import T5Config
from dss_jax.training import cpu_memory

SCRIPT = """
import resource

import jax
import jax.numpy as jnp

from dss_jax.training import cpu_memory
from dss_jax.models.config import T5Config

kept = cpu_memory.keep(T5Config(64))


@jax.jit
def step(x):  # with temporaries of 16 MiB
  return jnp.sort(jnp.sort(x) @ x, axis=0).sum()


x = jnp.ones((2048, 2048))


def fresh_pages():
  def count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

  before = count()
  step(x).block_until_ready()
  return count() - before


for _ in range(2):
  step(x).block_until_ready()
after_steps = fresh_pages()
with cpu_memory.given_back():
  pass
print(kept, after_steps, fresh_pages())
"""


def _run(**environment: str) -> tuple[bool, int, int]:
  """Whether memory is kept; pages of a step, and of one after giving back."""
  ours = {k: v for k, v in os.environ.items() if k not in cpu_memory._SETTINGS}
  output = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env={**ours, "XLA_FLAGS": "", **environment},
    check=True,
    capture_output=True,
    text=True,
    timeout=300,
  ).stdout
  kept, after_steps, given_back = output.split()
  return kept == "True", int(after_steps), int(given_back)


@pytest.mark.slow
@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="needs the GNU C library"
)
def test_steps_use_the_memory_of_those_before():
  kept, after_steps, given_back = _run()
  assert kept
  assert after_steps < given_back / 10
  size = os.sysconf("SC_PAGE_SIZE")
  assert given_back * size > 2**24
  kept, after_steps, _ = _run(GLIBC_TUNABLES="")
  assert not kept
  assert after_steps * size > 2**24


@pytest.mark.parametrize("name", cpu_memory._SETTINGS)
def test_who_says_what_to_keep_is_heeded(name, monkeypatch):
  for each in cpu_memory._SETTINGS:
    monkeypatch.delenv(each, raising=False)
  monkeypatch.setenv(name, "")
  assert not cpu_memory.keep(T5Config(64))


def test_the_smallest_students_are_left_alone(monkeypatch):
  for each in cpu_memory._SETTINGS:
    monkeypatch.delenv(each, raising=False)
  assert not cpu_memory.keep(T5Config(64, emb_dim=1))
