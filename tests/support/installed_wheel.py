"""dss_jax as others get it: a wheel, and an environment that it is installed in."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import command_line
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


def _pip(*arguments: str | pathlib.Path, cwd: pathlib.Path | None = None):
  subprocess.run(
    [sys.executable, "-m", "pip", *arguments], cwd=cwd, check=True, timeout=600
  )


@pytest.fixture(scope="session")
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
  _pip("wheel", "-q", "--no-deps", ".", "--wheel-dir", folder, cwd=source)
  (built,) = folder.glob("dss_jax-*.whl")
  return built


class Environment:
  """A virtual environment without this checkout.

  What dss_jax needs is that of the environment of the tests. Of that one's
  site-packages only the packages are seen: no file of it that leads to the
  checkout is read.

  Args:
    folder: where it is made.
  """

  def __init__(self, folder: pathlib.Path):
    venv.create(folder, symlinks=True)
    self.bin = folder / "bin"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    packages = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    # A folder that a .pth file names is searched, and its .pth files are not.
    (site / "of_the_tests.pth").write_text("\n".join(packages) + "\n")

  @property
  def python(self) -> pathlib.Path:
    return self.bin / "python"

  def install(self, *what: str | pathlib.Path) -> None:
    """Installs packages, without what they need."""
    flags = ("-q", "--no-deps", "--ignore-installed")  # wherever it is already
    _pip("--python", self.python, "install", *flags, *what)

  def variables(self) -> dict[str, str]:
    """The environment variables of a shell in which it is active."""
    variables = command_line.environment()
    del variables["PYTHONPATH"]
    path = f"{self.bin}{os.pathsep}{variables['PATH']}"
    return {**variables, "PATH": path, "VIRTUAL_ENV": str(self.bin.parent)}


@pytest.fixture(scope="session")
def installed_wheel(wheel, tmp_path_factory) -> Environment:
  """An environment with the wheel."""
  made = Environment(tmp_path_factory.mktemp("installed") / "venv")
  made.install(wheel)
  return made
