"""What the command line adds to an error: the flags or bindings to change."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from dss_jax.base.errors import UserError

# Fields that flags of another name set, in the modes that have these flags.
_FLAGS_OF_FIELDS = {
  "batch_size": ("max_batch",),
  "device_memory": ("plan_memory",),
  "headers": ("header",),
  "max_records": ("limit",),
  "mixture_or_task_name": ("task",),
  "modules": ("module",),
  "omit": ("omit_fields",),
  "extra": ("extra_body",),
  "pack": ("no_packing",),
  "task_feature_lengths": ("inputs_length", "targets_length"),
}


def with_hints(error: UserError, flags: Mapping[str, str]) -> str:
  """The message of an error, with what sets the fields that it names.

  Args:
    error: from anywhere below the command line.
    flags: the flags of the mode that failed, without their dashes, by the
      fields that they set, `Class.name`.
  """
  hints = [hint for field in error.fields for hint in _hints(field, flags)]
  found = [hint for hint in dict.fromkeys(hints) if hint not in str(error)]
  return f"{error} ({', '.join(found)})" if found else str(error)


def _hints(field: str, flags: Mapping[str, str]) -> Iterator[str]:
  """`--name` or `--gin.BINDING`; nothing for what neither sets."""
  owner, _, name = field.rpartition(".")
  if field in flags:
    yield f"--{flags[field]}"
    return
  by_name = {key.rpartition(".")[2]: flag for key, flag in flags.items()}
  if name in by_name:
    yield f"--{by_name[name]}"
    return
  others = [f for f in _FLAGS_OF_FIELDS.get(name, ()) if f in flags.values()]
  if others:
    yield from (f"--{flag}" for flag in others)
  elif owner and "GinFlags.gin_file" in flags and "gin" in sys.modules:
    from dss_jax.cli import gin_registry

    if binding := gin_registry.binding_of(owner, name):
      yield f"--gin.{binding}"
