"""What a command finds around it: devices, caches, JAX's variables."""

import argparse
import socket
import subprocess
import sys
import warnings
from typing import Any

import command_line
import jax
import pytest
from jax._src import clusters

from dss_jax.base.errors import UserError
from dss_jax.cli import failures, process

ARGS = argparse.Namespace(debug=False, field_flags={})


@pytest.fixture
def cache():
  """JAX's setting, which is put back."""
  settings: Any = jax.config
  before = settings.jax_compilation_cache_dir
  with warnings.catch_warnings():
    yield
  jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
  ("failure", "reason"),
  [
    (
      RuntimeError("Unable to initialize backend 'cuda': no GPU (set JAX_PL"),
      "Unable to initialize backend 'cuda': no GPU",
    ),
    (AssertionError(), "it finds no such device"),
  ],
)
def test_a_platform_that_is_not_here_is_named(monkeypatch, failure, reason):
  def devices():
    raise failure

  monkeypatch.setattr(jax, "devices", devices)
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  with pytest.raises(UserError) as error:
    process.set_up(ARGS)
  assert "JAX_PLATFORMS is 'cuda', which JAX cannot use here" in str(
    error.value
  )
  assert "\n" not in str(error.value)
  if isinstance(failure, AssertionError):
    assert reason in str(error.value)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  process.set_up(ARGS)  # asks no device


@pytest.mark.parametrize("variable", ["JAX_COMPILATION_CACHE_DIR", "HOME"])
def test_a_cache_that_cannot_be_written_is_reported_once(
  tmp_path, monkeypatch, capsys, cache, variable
):
  (tmp_path / "file").write_text("")
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setenv(variable, str(tmp_path / "file"))
  if variable != "HOME":
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
  process.set_up(ARGS)
  (line,) = capsys.readouterr().err.splitlines()
  assert "compiled programs are not kept" in line
  assert "JAX_COMPILATION_CACHE_DIR names another folder" in line
  with warnings.catch_warnings(record=True) as caught:
    warnings.warn(
      "Error writing persistent compilation cache entry for 'f'", stacklevel=1
    )
  assert caught == []


def test_a_cache_elsewhere_is_not_looked_at(monkeypatch, capsys, cache):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://none/cache")
  jax.config.update("jax_compilation_cache_dir", "gs://none/cache")
  process.set_up(ARGS)
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
  "message",
  [
    "invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'",
    'Invalid value "abc" for JAX flag jax_num_cpu_devices',
  ],
)
def test_variables_that_jax_refuses_are_reported_in_one_line(capsys, message):
  def run():
    raise ValueError(message)

  assert failures.exit_status(run, "train", debug=False) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(
    f"dss-jax train: JAX refuses its environment ({message}"
  )


def test_training_that_diverges_has_a_status_of_its_own(capsys):
  """Schedulers, and sweeps, need not try it again."""

  def diverge():
    raise FloatingPointError("loss was not finite")

  assert failures.exit_status(diverge, "train", debug=False) == 3
  assert capsys.readouterr().err == "dss-jax train: loss was not finite\n"


# --------------------------------------------------------- several processes


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      {"cluster": "borg"},
      "cluster is 'borg'; it must be one of slurm, ompi, mpi4py, gcetpu, gketpu",
    ),
    (
      {"heartbeat_seconds": 60},
      "--heartbeat_seconds is for runs of several processes: add --multiprocess",
    ),
    (
      {"multiprocess": True, "heartbeat_seconds": 1},
      "heartbeat_seconds is 1; it must be 10 or more",
    ),
    (
      {"process_count": 2},
      "--coordinator_address and --process_index are not given",
    ),
    (
      {
        "cluster": "slurm",
        "coordinator_address": "10.0.0.1:1234",
        "process_count": 2,
        "process_index": 0,
      },
      "--cluster=slurm finds the other processes, which --coordinator_address",
    ),
  ],
)
def test_flags_of_processes_that_do_not_fit_are_refused(flags, message):
  with pytest.raises(UserError) as error:
    process._check(process.ProcessFlags(**flags))
  assert message in str(error.value)


def test_clusters_have_jaxs_names():
  known = {each.name for each in clusters.ClusterEnv._cluster_types}
  assert known >= set(process.CLUSTERS)


def _start(*flags: str, **variables: str) -> subprocess.Popen:
  program = (
    "import argparse, jax, sys\n"
    "from dss_jax.cli import flags, process\n"
    "parser = argparse.ArgumentParser()\n"
    "flags.add_flags(parser, process.ProcessFlags)\n"
    "args = parser.parse_args()\n"
    "args.debug = False\n"
    "process.set_up(args)\n"
    "print(jax.process_index(), jax.process_count(), jax.device_count())\n"
  )
  environment = {
    name: value
    for name, value in command_line.environment(JAX_PLATFORMS="cpu").items()
    if not name.startswith(("SLURM_", "OMPI_", "TPU_"))
  }
  return subprocess.Popen(
    [sys.executable, "-c", program, *flags],
    env=environment | variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_tasks_of_slurm_find_each_other():
  """By the variables that Slurm sets; two tasks of one node."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
  started = [
    _start(
      "--cluster=slurm",
      "--heartbeat_seconds=30",
      JAX_COORDINATOR_PORT=port,
      SLURM_JOB_ID="7",
      SLURM_STEP_NODELIST="127.0.0.1",
      SLURM_STEP_NUM_NODES="1",
      SLURM_NTASKS="2",
      SLURM_PROCID=str(task),
      SLURM_LOCALID=str(task),
    )
    for task in range(2)
  ]
  try:
    for task, each in enumerate(started):
      said, complaints = each.communicate(timeout=120)
      assert each.returncode == 0, complaints
      assert said == f"{task} 2 2\n"
  finally:
    for each in started:
      each.kill()


@pytest.mark.parametrize("cluster", ["slurm", "ompi", "gketpu"])
def test_a_cluster_that_is_not_here_is_refused(cluster):
  ended = _start(f"--cluster={cluster}")
  _, complaints = ended.communicate(timeout=120)
  assert ended.returncode == 1
  *_, last = complaints.splitlines()
  assert f"--cluster={cluster}: JAX does not find the other" in last
  assert "can not proceed" not in complaints  # JAX's own line says no more
