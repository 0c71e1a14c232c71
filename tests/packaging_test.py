"""What an installation holds, and that it works from any folder.

`python tests/packaging_test.py` prints what requirements/lowest.txt must hold.
"""

import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dss_jax


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
  """The wheel, installed into a folder of its own."""
  target = tmp_path_factory.mktemp("site")
  subprocess.run(
    [
      sys.executable,
      "-m",
      "pip",
      "install",
      "-q",
      "--no-deps",
      "--target",
      str(target),
      str(wheel),
    ],
    check=True,
    timeout=300,
  )
  return target


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel, repository):
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split("/")[0] for name in names}
  assert {top for top in tops if not top.endswith(".dist-info")} == {"dss_jax"}
  files = set(names)
  for path in (repository / "gin").rglob("*.gin"):
    relative = path.relative_to(repository).as_posix()
    assert f"dss_jax/{relative}" in files
  for path in (repository / "tasks").rglob("*.py"):
    relative = path.relative_to(repository).as_posix()
    assert f"dss_jax/{relative}" in files
  prompts = list((repository / "tasks" / "prompts").glob("*.toml"))
  assert len(prompts) >= 5
  for path in prompts:
    assert f"dss_jax/tasks/prompts/{path.name}" in files
  for path in (repository / "dss_jax").rglob("*.py"):
    relative = path.relative_to(repository)
    if relative.parts[1] not in ("tasks", "gin"):
      assert relative.as_posix() in files
  assert "dss_jax/py.typed" in files
  assert "dss_jax/datasets/taxonli_vocabulary.model" in files
  assert "dss_jax/rationales/prices.toml" in files
  for room in ("base", "experiments/report", "rationales/quality"):
    for path in (repository / "dss_jax" / room / "page").iterdir():
      assert f"dss_jax/{room}/page/{path.name}" in files


def _run(site: pathlib.Path, cwd: pathlib.Path, *argv: str):
  environment = {
    **os.environ,
    "PYTHONPATH": str(site),
    "PYTHONSAFEPATH": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
  }
  return subprocess.run(
    [sys.executable, *argv],
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )


@pytest.mark.slow
def test_installed_package_trains_from_another_folder(installed, tmp_path):
  # Folders of gin's names in the working folder must not get in the way.
  for name in ("runs", "models", "gin", "tasks"):
    (tmp_path / name).mkdir()
  where = _run(
    installed, tmp_path, "-c", "import dss_jax; print(dss_jax.__file__)"
  )
  assert where.stdout.startswith(str(installed)), where
  result = _run(
    installed,
    tmp_path,
    "-m",
    "dss_jax.main",
    "train",
    "--gin_file=models/taxonli.gin",
    "--gin_file=runs/taxonli.gin",
    "--gin_file=data/taxonli.gin",
    "--gin_file=methods/dss.gin",
    "--gin.MODEL_DIR=out",
    "--gin.TRAIN_STEPS=2",
    "--gin.EVAL_MAX_EXAMPLES=4",
    "--gin.data.DataOptions.taxonli_num_train=64",
  )
  assert result.returncode == 0, result.stderr
  assert (tmp_path / "out" / "results.jsonl").read_text().count("\n") >= 2


@pytest.mark.slow
def test_installed_tasks_import_under_one_name_only(installed, tmp_path):
  program = (
    "import dss_jax.tasks, seqio\n"
    "assert 'taxonli_dss' in seqio.MixtureRegistry.names()\n"
  )
  result = _run(installed, tmp_path, "-c", program)
  assert result.returncode == 0, result.stderr
  result = _run(installed, installed / "dss_jax", "-c", "import tasks")
  assert result.returncode != 0


def _lowest(pyproject: pathlib.Path) -> str:
  """The declared lower bounds, as constraints for the extra `dev`."""
  project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
  extras = project["optional-dependencies"]
  own, *wanted = project["dependencies"], "report", "serve", "teacher", "dev"
  found = {}
  for requirement in [
    *own,
    *(each for name in wanted for each in extras[name]),
  ]:
    if not requirement.startswith("dss_jax["):
      match = re.fullmatch(r"([\w-]+)>=([\w.]+)(,<[\w.]+)?", requirement)
      assert match, requirement
      found[match[1]] = match[2]
  lines = sorted((f"{n}=={v}" for n, v in found.items()), key=str.lower)
  return "\n".join((_LOWEST_HEADER, *lines, ""))


_LOWEST_HEADER = """\
# The lowest versions that pyproject.toml allows of what dss_jax and its extra
# `dev` name, as constraints: PIP_CONSTRAINT=requirements/lowest.txt make test.
# `python tests/packaging_test.py` prints this file."""


def test_the_lowest_versions_are_the_declared_bounds(repository):
  committed = repository / "requirements" / "lowest.txt"
  text = committed.read_text(encoding="utf-8")
  assert text == _lowest(repository / "pyproject.toml")


APART = {"beam": "locked_beam.txt", "ray": "locked_ray.txt"}


@pytest.mark.parametrize("name", ["locked.txt", *APART.values()])
def test_locked_versions_are_in_range_and_of_every_extra(repository, name):
  path = repository / "pyproject.toml"
  project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
  wanted = [
    requirement
    for extra, each in project["optional-dependencies"].items()
    if APART.get(extra, "locked.txt") == name
    for requirement in each
  ]
  text = (repository / "requirements" / name).read_text(encoding="utf-8")
  locked: dict[str, list[str]] = {}
  for line in text.splitlines():
    if not line.startswith("#"):
      pin = Requirement(line)
      (version,) = pin.specifier
      locked.setdefault(canonicalize_name(pin.name), []).append(version.version)
  for each in map(Requirement, [*project["dependencies"], *wanted]):
    if each.name != "dss_jax":
      versions = locked[canonicalize_name(each.name)]
      assert all(version in each.specifier for version in versions), each


def test_workflows_name_actions_by_commits(repository):
  """A tag can be moved to other code; a commit's hash cannot."""
  for path in (repository / ".github" / "workflows").glob("*.yml"):
    for line in path.read_text(encoding="utf-8").splitlines():
      if "uses:" in line:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v[\d.]+$", line), line


def test_lint_has_the_versions_that_dss_jax_allows(repository):
  """Both may name a library; `make lint` installs its group alone."""
  path = repository / "pyproject.toml"
  values = tomllib.loads(path.read_text(encoding="utf-8"))
  extras = values["project"]["optional-dependencies"]
  declared = [*values["project"]["dependencies"], *extras["dev"]]
  bounds = {re.split("[<>=]", each)[0]: each for each in declared}
  for each in values["dependency-groups"]["lint"]:
    name, *bound = re.split("(?=[<>=])", each, maxsplit=1)
    if bound:
      assert bounds.get(name, each) == each


def test_the_citation_has_the_version(repository):
  citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
  assert f"\nversion: {dss_jax.__version__}\n" in citation


def test_the_hooks_are_those_of_make_lint(repository):
  """What `make lint` runs, pre-commit runs."""
  makefile = (repository / "Makefile").read_text(encoding="utf-8")
  tools = re.findall(r"^\t\$\(LINT\)/(\w+ ?\w*)", makefile, re.MULTILINE)
  hooks = (repository / ".pre-commit-config.yaml").read_text(encoding="utf-8")
  for tool in ("ruff format", "ruff check", "pyright"):
    assert any(each.startswith(tool) for each in tools)
    assert f"entry: .venv-lint/bin/{tool} " in hooks


def test_bare_checkout_links(repository):
  for name in ("tasks", "gin"):
    link = repository / "dss_jax" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
  assert not list((repository / "gin").rglob("*.py"))


@pytest.mark.parametrize("arguments", [[], ["--gin_file=runs/train.gin"]])
def test_launching_without_a_folder_is_refused(repository, arguments):
  script = repository / "launch" / "local.sh"
  ended = subprocess.run(
    [script, *arguments], capture_output=True, text=True, timeout=60
  )
  assert ended.returncode == 2
  assert "give the run's folder first" in ended.stderr


@pytest.mark.slow
def test_launching_a_bare_checkout_from_another_folder(repository, tmp_path):
  """It takes the interpreter asked for, and the run's folder in the caller's."""
  environment = {**os.environ, "PYTHON": sys.executable, "DSS_DEVICE": "cpu"}
  environment.pop("PYTHONPATH", None)
  ended = subprocess.run(
    [repository / "launch" / "local.sh", "my run", "--gin_file=runs/none.gin"],
    capture_output=True,
    text=True,
    timeout=120,
    cwd=tmp_path,
    env=environment,
  )
  # dss_jax itself was found and answers.
  assert ended.returncode == 2
  assert ended.stderr.startswith("dss-jax train: --gin_file: 'runs/none.gin'")


if __name__ == "__main__":
  root = pathlib.Path(__file__).resolve().parents[1]
  print(_lowest(root / "pyproject.toml"), end="")
