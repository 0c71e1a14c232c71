"""Small runs from the command line, in this process and in others."""

import os
import pathlib
import sys

import jax
import pytest

# What a run of a tiny student on a few built-in records takes.
SMALL = (
  "--gin.data.DataOptions.taxonli_num_train=64",
  "--gin.data.DataOptions.taxonli_num_validation=16",
  "--gin.data.DataOptions.taxonli_num_test=16",
  "--gin.network.T5Config.emb_dim=8",
  "--gin.network.T5Config.num_encoder_layers=1",
  "--gin.network.T5Config.num_decoder_layers=1",
)
GIN_FILES = (
  "--gin_file=models/taxonli.gin",
  "--gin_file=runs/taxonli.gin",
  "--gin_file=data/taxonli.gin",
  "--gin_file=methods/dss.gin",
)


def train_flags(folder: pathlib.Path | str, *more: str) -> list[str]:
  """Two steps of training into a folder."""
  return [
    "train",
    *GIN_FILES,
    *SMALL,
    # Random generators take long to compile.
    "--gin.network.T5Config.dropout_rate=0.0",
    f"--gin.MODEL_DIR={folder}",
    "--gin.TRAIN_STEPS=2",
    *more,
  ]


def environment(*, devices: int = 1, **changes: str) -> dict[str, str]:
  """The environment of a Python process of this checkout.

  Args:
    devices: simulated CPU devices; programs for one compile in half the time.
    **changes: variables that differ from this process's.
  """
  flags = os.environ["XLA_FLAGS"]
  return {
    **os.environ,
    # The second of two numbers counts.
    "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    **changes,
  }


def use_one_device(patched: pytest.MonkeyPatch) -> None:
  """Programs for one device compile in half the time."""
  one = jax.devices()[:1]
  patched.setattr(jax, "devices", lambda *_: one)


@pytest.fixture
def one_device(monkeypatch) -> None:
  """Hides all simulated devices but one, where many make no difference."""
  use_one_device(monkeypatch)
