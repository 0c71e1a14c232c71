"""Who may import what: floors, no circles, and TensorFlow in few places.

`python tests/import_law_test.py` prints the floors, names and circles there
are.
"""

import ast
import collections
import importlib
import itertools
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

import pytest

# An import points to a lower floor, or stays on its own.
FLOORS = {
  "main": 7,
  "cli": 7,
  "experiments": 6,
  "students": 5,
  "planning": 5,
  "training": 4,
  "data": 3,
  "rationales": 3,
  "pretrained": 3,
  "datasets": 2,
  "models": 2,
  "vocabularies": 2,
  "base": 1,
}
# They are not modules of the package: links to the folders of these names.
LINKS = {"gin", "tasks"}
# (importer, imported) that the floors forbid and the start of a command needs.
LAZY_EXCEPTIONS: set[tuple[str, str]] = set()

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
  "cli/gin_statements.py",
  "cli/gin_config.py",
  "cli/unread_bindings.py",
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


def _imported_modules(
  path: pathlib.Path, known: Iterable[str]
) -> Iterator[str]:
  """The package's own modules that a file imports, in functions too.

  Args:
    path: the file.
    known: dotted names of all modules, without `dss_jax.`.
  """
  known = set(known)
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
      first, *parts = name.split(".")
      if first == "dss_jax":
        while parts and ".".join(parts) not in known:
          parts.pop()
        if parts:
          yield ".".join(parts)


def import_graph(repository: pathlib.Path) -> dict[str, set[str]]:
  """The modules that each module of the package imports."""
  paths = {
    name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
    for name, path in _modules(repository).items()
    if name != "__init__.py"
  }
  return {
    name: set(_imported_modules(path, paths)) - {name}
    for name, path in paths.items()
  }


def rising(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
  """The imports of a higher floor."""
  return [
    (importer, imported)
    for importer, targets in sorted(graph.items())
    for imported in sorted(targets)
    if FLOORS[importer.split(".")[0]] < FLOORS[imported.split(".")[0]]
  ]


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
  """Parts of a folder that import each other, for all folders.

  A folder and what lies in it are one part to its neighbours.
  """
  folders = {
    tuple(name.split(".")[:depth])
    for name in graph
    for depth in range(name.count(".") + 1)
  }
  found = []
  for folder in sorted(folders):
    parts: dict[str, set[str]] = collections.defaultdict(set)
    for importer, targets in graph.items():
      for imported in targets:
        names = [importer.split("."), imported.split(".")]
        if all(
          tuple(name[: len(folder)]) == folder and len(name) > len(folder)
          for name in names
        ):
          above, below = (name[len(folder)] for name in names)
          parts[above].add(below)
          parts[above].discard(above)
    while leaves := [p for p in parts if not parts[p] & parts.keys()]:
      for leaf in leaves:
        del parts[leaf]
    if parts:
      found.append({".".join((*folder, part)) for part in parts})
  return found


def test_no_module_imports_a_higher_floor(repository):
  graph = import_graph(repository)
  assert len(graph) > 100  # else the law is not looked at
  assert set(rising(graph)) == LAZY_EXCEPTIONS


def test_no_parts_of_a_folder_import_each_other(repository):
  assert circles(import_graph(repository)) == []


def test_the_package_has_the_names_of_the_floors(repository):
  found = {
    path.stem
    for path in (repository / "dss_jax").iterdir()
    if path.name not in ("__init__.py", "__pycache__", "py.typed")
  }
  assert found == FLOORS.keys() | LINKS
  assert len(FLOORS) <= 13
  assert max(FLOORS.values()) <= 7


def test_no_two_files_share_a_name(repository):
  names = collections.Counter(
    path.name
    for path in _modules(repository).values()
    if path.name != "__init__.py"
  )
  assert [name for name, count in names.items() if count > 1] == []


def test_the_architecture_page_is_true(repository):
  """Its floors are those above, and what it names is there."""
  page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
  rows = re.findall(r"^\| (\d) \| `(\w+)` \|", page, re.MULTILINE)
  assert {name: int(floor) for floor, name in rows} == FLOORS
  names = re.findall(r"`([\w/.]+/[\w/.]*)`", page)
  paths = {n for n in names if "NAME" not in n}
  assert len(paths) > 25
  assert [p for p in sorted(paths) if not (repository / p).exists()] == []


def test_the_public_names_are_there(repository):
  """Those that docs/architecture.md lists, and `__all__` has where it is."""
  page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
  _, _, section = page.partition("## Public API and stability")
  rows = re.findall(r"^\| `(dss_jax[\w.]+)` \| (.*) \|$", section, re.MULTILINE)
  assert len(rows) > 15
  for module_name, cell in rows:
    module = importlib.import_module(module_name)
    for name in re.findall(r"`(\w+)`", cell):
      assert name in getattr(module, "__all__", vars(module)), name
      assert hasattr(module, name), f"{module_name}.{name}"


def test_a_rising_import_and_a_circle_are_found():
  graph = {
    "base.files": {"cli.train"},
    "cli.train": {"models.layers"},
    "models.layers": {"models.kernels.flash"},
    "models.kernels.flash": {"models.config"},
    "models.config": {"models.layers"},
  }
  assert rising(graph) == [("base.files", "cli.train")]
  assert circles(graph) == [
    {"models.config", "models.kernels", "models.layers"}
  ]


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
  assert all(n.startswith("rationales/beam_pipeline/") for n in importers)


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


def _run(program: str) -> None:
  import command_line  # late: not where this file is run as a script

  subprocess.run(
    [sys.executable, "-c", program],
    env=command_line.environment(),
    check=True,
    timeout=300,
  )


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
assert run.step == 1 and run.results, run
loaded = {{name.split(".")[0] for name, module in sys.modules.items() if module}}
assert not loaded & {(HEAVY | {"gin"})!r}, loaded
"""
  )
  _run(program)


@pytest.mark.slow
def test_the_command_line_trains_and_scores_without_them(tmp_path):
  """From records and from batch files.

  gin belongs to the command line; TensorFlow and SeqIO do not.
  """
  import command_line

  written = str(tmp_path / "batches")
  flags = ["--gin.TRAIN_STEPS=1", "--gin.EVAL_MAX_EXAMPLES=4"]
  write = [
    *("data", "batches", "--task=taxonli_dss", "--records_per_batch=32"),
    *(
      "--rows_multiple_of=8",
      "--steps=1",
      "--taxonli_num_train=64",
      f"--output_dir={written}",
    ),
  ]
  program = _BLOCK.format(blocked=sorted(HEAVY)) + "from dss_jax import main\n"
  program += f"assert main.main({write!r}) == 0\n"
  batch_files = f"--gin.train/utils.DatasetConfig.batch_files={written}"
  for name, source in (("records", []), ("batch_files", [batch_files])):
    folder = str(tmp_path / name)
    argv = command_line.train_flags(folder, *flags, *source)
    program += (
      f"assert main.main({argv!r}) == 0\n"
      + f"assert main.main(['eval', '--model_dir', {folder!r}]) == 0\n"
    )
  _run(program)


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


def _print_floors() -> None:
  """Prints what `docs/architecture.md` is drawn from."""
  graph = import_graph(pathlib.Path(__file__).resolve().parents[1])
  by_floor = sorted(FLOORS.items(), key=lambda item: -item[1])
  for floor, names in itertools.groupby(by_floor, key=lambda item: item[1]):
    print(floor, *(name for name, _ in names))
  print(
    f"{len(FLOORS)} names, {len(set(FLOORS.values()))} floors,"
    f" {len(graph)} modules, {sum(map(len, graph.values()))} imports,"
    f" {len(rising(graph))} rising, {len(circles(graph))} circles"
  )


if __name__ == "__main__":
  _print_floors()
