"""Python modules of the user's, imported by name for what they register."""

import importlib
from collections.abc import Sequence

from dss_jax.base.errors import UserError


def import_modules(names: Sequence[str]) -> None:
  """Imports the user's modules, which register tasks or datasets.

  Raises:
    UserError: where a module cannot be imported.
  """
  for name in names:
    if not all(part.isidentifier() for part in str(name).split(".")):
      raise UserError(
        f"module is {name!r}, which is not the name of a module; write it as in an"
        " import: my_project.tasks",
        fields="module",
      )
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise UserError(
        f"the module {name!r} cannot be imported: {error}",
        fields="module",
      ) from error
