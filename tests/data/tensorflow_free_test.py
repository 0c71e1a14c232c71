"""From records to token arrays and evaluations with TensorFlow blocked."""

import subprocess
import sys

CODE = """
import sys

class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("tensorflow", "seqio", "gin", "jax", "flax"):
      raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())

from dss_jax import datasets
from dss_jax import vocabularies
from dss_jax.data.feeding import streaming
from dss_jax.data.pairs import task_options, flat_records, dataset_registration, subtasks
from dss_jax.data.tokens import evaluation_sets, tokenization

data = datasets.DataOptions(taxonli_num_train=9, taxonli_num_test=6)
vocabulary = vocabularies.from_name("taxonli")
built = tokenization.build_examples("taxonli_dss", "train", vocabulary, data)
found = evaluation_sets.build_evaluations(
  tokenization.TaskSource.load("taxonli_dss", "test", vocabulary, data)
)
assert [len(arrays) for arrays in built.subtasks] == [9, 9]
label = found["label"]
assert label.score(label.predictions(label.targets)) == {"accuracy": 1.0}
try:
  import dss_jax.data.tasks
except ImportError as error:
  print(error)
"""


def test_tokens_without_tensorflow(repository):
  done = subprocess.run(
    [sys.executable, "-c", CODE],
    cwd=repository,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert " is blocked" in done.stdout
