"""TOML files of the user: prompts, prices, teachers."""

from __future__ import annotations

import os
import pathlib
import re
import tomllib
from typing import Any

from dss_jax.base.errors import UserError, one_line

# Far above what a prompt or a table of prices needs.
MAX_BYTES = 1 << 20
# The parser takes the square of a key's parts in time.
_MAX_KEY_PARTS = 100
_LONG_KEY = re.compile(
  rf"""(?<!["'\w-])(?:["'\w-]+[ \t]*\.[ \t]*){{{_MAX_KEY_PARTS}}}"""
)


def read_toml(path: str | os.PathLike[str], *, field: str) -> dict[str, Any]:
  """The content of a TOML file of at most MAX_BYTES.

  Args:
    path: the file; may begin with `~`.
    field: the option that names the file, for errors.

  Raises:
    UserError: the file cannot be read, is too large, or is not TOML.
  """

  def error(reason: str) -> UserError:
    return UserError(f"{path}: {reason}", fields=field)

  try:
    with pathlib.Path(path).expanduser().open("rb") as file:
      content = file.read(MAX_BYTES + 1)
  except OSError as failure:
    raise error(f"cannot be read: {failure.strerror or failure}") from None
  if len(content) > MAX_BYTES:
    raise error(f"more than {MAX_BYTES} bytes")
  try:
    text = content.decode("utf-8")
    if _LONG_KEY.search(text):
      raise error(f"a key has {_MAX_KEY_PARTS} parts or more")
    return tomllib.loads(text)
  except UnicodeDecodeError as failure:
    raise error(f"not valid UTF-8 (byte {failure.start})") from None
  except (ValueError, RecursionError) as failure:
    raise error(f"not valid TOML: {one_line(failure)}") from None
