"""Files in any of Beam's file systems."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from dss_jax.base.errors import UserError, one_line


class BeamFiles:
  """`ledger_shards.Files` in any of Beam's file systems."""

  def beginning_with(self, prefix: str) -> list[str]:
    return matching([f"{prefix}*"])

  def read(self, path: str) -> bytes:
    with FileSystems.open(
      path, compression_type=CompressionTypes.UNCOMPRESSED
    ) as file:
      return file.read()

  def write(self, path: str, content: bytes) -> None:
    put(io.BytesIO(content), path)


def matching(patterns: Sequence[str]) -> list[str]:
  """The paths of all files that match, in order."""
  try:
    results = FileSystems.match(list(patterns))
  except (BeamIOError, ValueError, OSError) as error:
    raise UserError(
      f"cannot look for {patterns[0]}: {one_line(error)}"
    ) from None
  return sorted(
    found.path for result in results for found in result.metadata_list
  )


def put(file: Any, path: str) -> None:
  """Writes a file, which appears whole or not at all."""
  folder, name = FileSystems.split(path)
  if folder and not FileSystems.exists(folder):
    # Another worker may be faster.
    with contextlib.suppress(BeamIOError, OSError):
      FileSystems.mkdirs(folder)
  temporary = FileSystems.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
  try:
    with FileSystems.create(
      temporary, compression_type=CompressionTypes.UNCOMPRESSED
    ) as target:
      shutil.copyfileobj(file, target)
    FileSystems.rename([temporary], [path])
  except (BeamIOError, OSError) as error:
    raise UserError(f"cannot write {path}: {one_line(error)}") from None


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
  """The path itself or, for a remote file, that of a temporary copy."""
  if "://" not in path:
    yield path
    return
  with tempfile.TemporaryDirectory(prefix="dss_jax-read-") as folder:
    local = os.path.join(folder, path.rpartition("/")[2])
    with (
      FileSystems.open(
        path, compression_type=CompressionTypes.UNCOMPRESSED
      ) as source,
      open(local, "wb") as target,
    ):
      shutil.copyfileobj(source, target)
    yield local
