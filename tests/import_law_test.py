"""Who may import what: the core runs without TensorFlow, SeqIO and gin."""

import ast
import pathlib
import subprocess
import sys

import pytest

HEAVY = {
  "tensorflow",
  "tensorflow_text",
  "tensorflow_datasets",
  "seqio",
  "t5x",
}
MAY_IMPORT_SEQIO = ("data/seqio/", "datasets/external.py")
MAY_IMPORT_GIN = {
  "cli/gin_checks.py",
  "cli/gin_registry.py",
  "cli/gin_utils.py",
}


def _imports(path: pathlib.Path) -> set[str]:
  """Top-level names of everything a file imports, wherever in the file."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      names |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      names.add(node.module.split(".")[0])
  return names


def _modules(repository: pathlib.Path) -> dict[str, pathlib.Path]:
  package = repository / "dss_jax"
  return {
    path.relative_to(package).as_posix(): path
    for path in sorted(package.rglob("*.py"))
    if not path.relative_to(package).as_posix().startswith(("tasks/", "gin/"))
  }


def test_tensorflow_and_seqio_stay_in_their_places(repository):
  importers = {
    name
    for name, path in _modules(repository).items()
    if _imports(path) & HEAVY
  }
  strays = {n for n in importers if not n.startswith(MAY_IMPORT_SEQIO)}
  assert not strays
  assert importers  # else the law is not looked at


def test_gin_stays_at_the_edge(repository):
  importers = {
    name
    for name, path in _modules(repository).items()
    if "gin" in _imports(path)
  }
  assert importers <= MAY_IMPORT_GIN


def test_flax_stays_in_models(repository):
  importers = {
    name
    for name, path in _modules(repository).items()
    if "flax" in _imports(path)
  }
  assert importers
  assert all(name.startswith("models/") for name in importers)


def test_beam_stays_in_its_place(repository):
  importers = {
    name
    for name, path in _modules(repository).items()
    if "apache_beam" in _imports(path)
  }
  assert importers
  assert all(n.startswith("rationales/beam/") for n in importers)


def test_nothing_imports_the_registrations(repository):
  for name, path in _modules(repository).items():
    text = path.read_text(encoding="utf-8")
    assert "import dss_jax.tasks" not in text.replace("`", ""), name
    assert "from dss_jax.tasks" not in text, name


# As if they were not installed: importing fails, looking for them finds none.
_BLOCK = """
import sys
for name in {blocked!r}:
  sys.modules[name] = None
"""


@pytest.mark.slow
def test_one_train_step_evaluation_and_decode_without_them(tmp_path):
  """The whole method on the built-in data, with everything heavy blocked."""
  program = (
    _BLOCK.format(blocked=sorted(HEAVY | {"gin"}))
    + f"""
from dss_jax.training import evaluation, optimizers, train, train_config
from dss_jax.training.optimizers import schedules
from dss_jax import vocabularies
from dss_jax.data import pipeline
from dss_jax.datasets import DataOptions
from dss_jax.models import config, encoder_decoder

vocabulary = vocabularies.from_name("taxonli")
run = train.train(train_config.TrainConfig(
    model=encoder_decoder.EncoderDecoderModel(config.T5Config(
        vocab_size=vocabulary.vocab_size, emb_dim=8, num_heads=2, head_dim=4,
        mlp_dim=16, num_encoder_layers=1, num_decoder_layers=1)),
    model_dir={str(tmp_path / "run")!r},
    vocabulary=vocabulary,
    optimizer=optimizers.Adafactor(),
    learning_rate_fn=schedules.create_learning_rate_scheduler(
        factors="constant", base_learning_rate=0.01),
    train_dataset_cfg=pipeline.DatasetConfig(
        "taxonli_dss", {{"inputs": 48, "targets": 64}}, records_per_batch=8,
        data=DataOptions(taxonli_num_train=64)),
    evaluation_cfg=evaluation.EvaluationConfig(max_examples=4),
    total_steps=1,
))
assert run.step == 1 and run.rows, run
loaded = {{name.split(".")[0] for name, module in sys.modules.items() if module}}
assert not loaded & {(HEAVY | {"gin"})!r}, loaded
"""
  )
  subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["records", "batch_files"])
def test_the_command_line_trains_and_scores_without_them(tmp_path, source):
  """gin belongs to the command line; TensorFlow and SeqIO do not."""
  folder, written = str(tmp_path / "run"), str(tmp_path / "batches")
  files = ("models/taxonli", "runs/taxonli", "data/taxonli", "methods/dss")
  argv = [
    "train",
    *(f"--gin_file={name}.gin" for name in files),
    f"--gin.MODEL_DIR={folder}",
    "--gin.TRAIN_STEPS=1",
    "--gin.EVAL_MAX_EXAMPLES=4",
    "--gin.data.DataOptions.taxonli_num_train=64",
  ]
  write = [
    *("data", "batches", "--task=taxonli_dss", "--records_per_batch=32"),
    *(
      "--rows_multiple_of=8",
      "--steps=1",
      "--taxonli_num_train=64",
      f"--output={written}",
    ),
  ]
  program = _BLOCK.format(blocked=sorted(HEAVY)) + "from dss_jax import main\n"
  if source == "batch_files":
    argv.append(f"--gin.train/utils.DatasetConfig.batch_files={written}")
    program += f"assert main.main({write!r}) == 0\n"
  program += (
    f"assert main.main({argv!r}) == 0\n"
    + f"assert main.main(['eval', '--model_dir', {folder!r}]) == 0\n"
  )
  subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_help_of_every_mode_imports_next_to_nothing():
  """What it imports is what it takes: counted, since times vary."""
  program = (
    "import sys; from dss_jax import main\n"
    "modes = main.make_parser()._subparsers._group_actions[0].choices\n"
    "assert len(modes) > 8, modes\n"
    "for mode in [[], *([name] for name in modes)]:\n"
    "  try: main.main([*mode, '--help'])\n"
    "  except SystemExit as e: assert e.code == 0, e\n"
    "tops = {name.split('.')[0] for name in sys.modules}\n"
    "heavy = {'jax', 'flax', 'tensorflow', 'seqio', 'pyarrow', 'gin', 'numpy'}\n"
    "assert not heavy & tops, heavy & tops\n"
    "assert len(sys.modules) < 250, sorted(sys.modules)\n"
  )
  subprocess.run(
    [sys.executable, "-c", program],
    check=True,
    timeout=60,
    stdout=subprocess.DEVNULL,
  )
