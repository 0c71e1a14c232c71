"""What the command line adds to an error: the flags or bindings to change."""

from __future__ import annotations

import sys
from collections.abc import Collection

from dss_jax.base.errors import UserError


def with_hints(error: UserError, flags: Collection[str]) -> str:
  """The message of an error, with what sets the fields that it names.

  Args:
    error: from anywhere below the command line.
    flags: the flags of the mode that failed, without their dashes.
  """
  hints = [_hint(field, flags) for field in error.fields]
  found = list(dict.fromkeys(hint for hint in hints if hint))
  return f"{error} ({', '.join(found)})" if found else str(error)


def _hint(field: str, flags: Collection[str]) -> str | None:
  """`--name`, or `--gin.BINDING`; None for what neither sets."""
  owner, _, name = field.rpartition(".")
  if name in flags:
    return f"--{name}"
  if owner and "gin_file" in flags and "gin" in sys.modules:
    from dss_jax.cli import gin_registry

    binding = gin_registry.binding_of(owner, name)
    return binding and f"--gin.{binding}"
  return None
