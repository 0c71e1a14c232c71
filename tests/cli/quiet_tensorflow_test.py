"""TensorFlow's start-up noise is left out, and nothing else."""

import signal
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
  import importlib.resources, pkgutil
  files = importlib.resources.files("tensorflow").iterdir()
  assert "__init__.py" in [file.name for file in files]
  assert b"value" in pkgutil.get_data("tensorflow", "__init__.py")
except RuntimeError:
  pass
assert not [f for f in sys.meta_path if "quiet" in type(f).__module__]
import os
os.write(2, b"after\\n")
"""


def _import(folder, repository, ending):
  package = folder / "tensorflow"
  package.mkdir()
  (package / "__init__.py").write_text(
    f"import os\nos.write(2, {PRINTED.encode()!r})\n{ending}\n"
  )
  return subprocess.run(
    [sys.executable, "-c", PROGRAM, str(folder)],
    cwd=repository,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize("ending", ["value = 3", "raise RuntimeError"])
def test_only_the_noise_is_left_out(tmp_path, repository, ending):
  ended = _import(tmp_path, repository, ending)
  assert ended.returncode == 0
  assert ended.stderr == f"{KEPT}after\n"


def test_the_last_words_of_an_import_that_aborts_are_shown(
  tmp_path, repository
):
  words = "F tensorflow/core/platform/cpu_feature_guard.cc: compiled for AVX512"
  ending = f"os.write(2, {words.encode()!r})\nos.abort()"
  ended = _import(tmp_path, repository, ending)
  assert ended.returncode == -signal.SIGABRT
  assert ended.stderr == f"{KEPT}{words}"
