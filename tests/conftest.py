"""Shared test set-up: eight simulated devices, and the optional real data."""

import os
import pathlib

# Before JAX is imported anywhere: meshes are tested on simulated CPU devices.
_FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _FLAGS:
  # Tests compile much and compute little: optimising costs more than it gains.
  os.environ["XLA_FLAGS"] = (
    f"{_FLAGS} --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0".strip()
  )
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Programs that several tests, workers or sessions compile are compiled once.
_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".pytest_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(
  os.environ.get("DSS_SHARED", REPOSITORY.parent / "shared")
)


@pytest.fixture(autouse=True)
def _own_datasets(monkeypatch):
  """Datasets that a test registers are forgotten after it."""
  from dss_jax.data import vocabularies
  from dss_jax.datasets import registry

  monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
  monkeypatch.setattr(vocabularies, "_DEFAULTS", dict(vocabularies._DEFAULTS))


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
  """The root of the checkout."""
  return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The folder `data` beside the released data; skips where it is absent."""
  folder = SHARED / "data"
  if not folder.is_dir():
    pytest.skip(f"the released data is not at {folder} (set DSS_SHARED)")
  return folder


@pytest.fixture(scope="session")
def fixtures() -> pathlib.Path:
  """Small committed files: data in the release layout, parity numbers."""
  return REPOSITORY / "tests" / "fixtures"
