"""What an installation holds, and that it works from any folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

SOURCES = (
  "dss_jax",
  "gin",
  "tasks",
  "setup.py",
  "pyproject.toml",
  "MANIFEST.in",
  "README.md",
  "CHANGELOG.md",
  "LICENSE",
  "NOTICE",
)


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> pathlib.Path:
  """A wheel built from a copy of the sources, links followed as git has them."""
  folder = tmp_path_factory.mktemp("wheel")
  source = folder / "source"
  source.mkdir()
  for name in SOURCES:
    path = repository / name
    if path.is_dir():
      shutil.copytree(path, source / name, symlinks=True)
    else:
      shutil.copy(path, source / name)
  subprocess.run(
    [
      sys.executable,
      "-m",
      "pip",
      "wheel",
      "-q",
      "--no-deps",
      ".",
      "--wheel-dir",
      str(folder),
    ],
    cwd=source,
    check=True,
    timeout=300,
  )
  (built,) = folder.glob("dss_jax-*.whl")
  return built


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
  assert "dss_jax/datasets/taxonli.model" in files
  assert "dss_jax/rationales/prices.toml" in files
  for name in ("index.html", "script.js", "style.css"):
    assert f"dss_jax/rationales/quality/page/{name}" in files


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


def test_bare_checkout_links(repository):
  for name in ("tasks", "gin"):
    link = repository / "dss_jax" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
  assert not list((repository / "gin").rglob("*.py"))


@pytest.mark.parametrize("arguments", [[], ["--gin_file=runs/train.gin"]])
def test_launching_without_a_folder_is_told(repository, arguments):
  script = repository / "launch" / "local.sh"
  ended = subprocess.run(
    [script, *arguments], capture_output=True, text=True, timeout=60
  )
  assert ended.returncode == 2
  assert "give the run's folder first" in ended.stderr


@pytest.mark.slow
def test_launching_a_bare_checkout_from_another_folder(repository, tmp_path):
  """With the interpreter asked for, and the run's folder in the caller's."""
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
