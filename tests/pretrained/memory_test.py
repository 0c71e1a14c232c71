"""A large model goes from its file to its devices without a second copy."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dss_jax.models.config import T5Config

CONFIG = T5Config(
  vocab_size=64_000,
  emb_dim=512,
  num_heads=8,
  head_dim=64,
  mlp_dim=2048,
  num_encoder_layers=4,
  num_decoder_layers=4,
)

_PROGRAM = """
import resource, sys, jax
from dss_jax.training import optimizers
from dss_jax.models import abstract_params
from dss_jax.models import partitioning
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import open_pretrained
from dss_jax.training import initialization

def status(name):
  for line in open("/proc/self/status"):
    if line.startswith(name):
      return int(line.split()[1]) / 1024

opened = open_pretrained(sys.argv[1])
model = EncoderDecoderModel(opened.config)
partitioner = partitioning.Partitioner(fully_sharded=True)
tx = optimizers.Adafactor().transform(
  lambda step: 0.1, abstract_params.param_shapes(model), model.param_axes())
before = status("VmRSS")
state, _ = initialization.initial_state(opened, model, tx, partitioner)
jax.block_until_ready(state)
assert state.params["token_embedder"]["embedding"].sharding.num_devices == 8
print(before, status("VmHWM"), opened.num_parameters * 4 / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux")
@pytest.mark.parametrize(
  "shards", [pytest.param(None, marks=pytest.mark.thorough), 3]
)
def test_a_hosts_peak_is_one_copy(tmp_path, folders, shards, repository):
  weights = {
    name: np.broadcast_to(np.float32(0.5), array.shape)
    for name, array in folders.empty_weights(CONFIG).items()
  }
  folders.write(tmp_path / "x", weights, CONFIG, shards)
  del weights
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, str(tmp_path / "x")],
    env=os.environ
    | {
      "PYTHONPATH": str(repository),
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    },
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  before, peak, size = map(float, done.stdout.split())
  assert size > 380  # MiB
  # Beside the model there is its largest array (125 MiB), for a moment.
  assert peak - before < 1.5 * size, (before, peak, size)
