"""What lies between token arrays and batches needs numpy and nothing more."""

import subprocess
import sys

_PROGRAM = """
import sys
for name in ("tensorflow", "seqio", "gin", "jax", "flax"):
  sys.modules[name] = None  # importing it raises ImportError
from dss_jax.data.feeding import batch_files, batches, split_batches
from dss_jax.data.packing import batch_shapes
from dss_jax.data.feeding import prefetching
from dss_jax.data.tokens import token_arrays
arrays = token_arrays.TokenArrays.from_lists("t", [[2, 1]] * 9, [[3, 1]] * 9)
example_set = token_arrays.ExampleSet(
  (arrays,), (1.0,), False, 9, "f", "v", "t", "train"
)
shape = batch_shapes.choose_batch_shape(example_set, records_per_batch=4)
print(batches.PackedBatches(example_set, shape, seed=0)[5]
      ["decoder_loss_weights"].sum())
"""


def test_batches_without_jax_tensorflow_seqio_and_gin(repository):
  result = subprocess.run(
    [sys.executable, "-c", _PROGRAM],
    cwd=repository,
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == "8\n"
