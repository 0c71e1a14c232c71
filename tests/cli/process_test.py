"""What a command finds around it: devices, caches, JAX's variables."""

import argparse
import warnings
from typing import Any

import jax
import pytest

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
