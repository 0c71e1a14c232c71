"""Build of dss_jax: what pyproject.toml cannot say.

`tasks/` and `gin/` lie at the top of the repository, where a reader looks for
them, and are installed inside the package as `dss_jax.tasks` and
`dss_jax/gin`: an installation adds only `dss_jax` to site-packages.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(
  r'^__version__ = "([^"]+)"',
  (ROOT / "dss_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
).group(1)


def subpackages(folder: str, package: str) -> dict[str, str]:
  """Maps `package` and the packages below it to their folders."""
  found = {package: folder}
  for name in setuptools.find_packages(str(ROOT / folder)):
    found[f"{package}.{name}"] = f"{folder}/{name.replace('.', '/')}"
  return found


TASKS = subpackages("tasks", "dss_jax.tasks")

setuptools.setup(
  version=VERSION,
  packages=[
    *setuptools.find_packages(
      include=["dss_jax", "dss_jax.*"],
      exclude=[
        "dss_jax.tasks",
        "dss_jax.tasks.*",
        "dss_jax.gin",
        "dss_jax.gin.*",
      ],
    ),
    *TASKS,
    "dss_jax.gin",
  ],
  package_dir={**TASKS, "dss_jax.gin": "gin"},
  package_data={
    "dss_jax": [
      "py.typed",
      "base/page/*",
      "datasets/*.model",
      "experiments/report/page/*",
      "rationales/*.toml",
      "rationales/quality/page/*",
      "students/serving/page/*",
    ],
    "dss_jax.gin": ["**/*.gin"],
    "dss_jax.tasks": ["**/*.toml"],
  },
  include_package_data=False,
  zip_safe=False,
)
