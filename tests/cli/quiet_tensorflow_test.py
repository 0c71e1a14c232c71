"""TensorFlow's start-up noise is left out, and nothing else."""

import subprocess
import sys

import pytest

# What TensorFlow 2.21 and builds of it for GPUs print, and what must stay.
PRINTED = """\
WARNING: All log messages before absl::InitializeLog() is called are written
I0000 00:00:1795920809.615394   23379 port.cc:153] oneDNN operations are on.
2026-01-02 03:04:05.678901: I tensorflow/core/util/port.cc:153] oneDNN is on.
E0000 00:00:1795920809.6 1 cuda_fft.cc:477] Unable to register cuFFT factory
E0000 00:00:1795920809.6 1 cuda.cc:266] failed call to cuInit
something else
"""
KEPT = "E0000 00:00:1795920809.6 1 cuda.cc:266] failed call to cuInit\nsomething else\n"  # fmt: skip

PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
from dss_jax.cli import quiet_tensorflow
quiet_tensorflow.install()
quiet_tensorflow.install()
try:
  import tensorflow
  assert tensorflow.value == 3 and tensorflow.__spec__.name == "tensorflow"
except RuntimeError:
  pass
assert not [f for f in sys.meta_path if "quiet" in type(f).__module__]
import os
os.write(2, b"after\\n")
"""


@pytest.mark.parametrize("ending", ["value = 3", "raise RuntimeError"])
def test_only_the_noise_is_left_out(tmp_path, repository, ending):
  package = tmp_path / "tensorflow"
  package.mkdir()
  (package / "__init__.py").write_text(
    f"import os\nos.write(2, {PRINTED.encode()!r})\n{ending}\n"
  )
  ended = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(tmp_path)],
    cwd=repository,
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 0
  assert ended.stderr == f"{KEPT}after\n"
