"""The files of one run, in its `model_dir`, apart from its checkpoints.

config.gin      the configuration it ran with, ready to be parsed again
run.json        versions, source revision, devices, data fingerprint
metrics.jsonl   one line per step and one per evaluation
events.out.*    the same for TensorBoard
eval/<task>/<step>.jsonl   what was decoded: input, target, prediction, correct
results.jsonl   final scores, one line per metric
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dss_jax import __version__
from dss_jax.base import plain_files, strict_json
from dss_jax.base.atomic_files import write_atomically
from dss_jax.base.errors import UserError, damaged_file

METRICS_FILE = "metrics.jsonl"
# The key of its lines for what may differ between runs of one configuration.
TIME = "time"

# A prediction of the longest text has less.
_MAX_LINE_BYTES = 16 * 2**20

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "sentencepiece",
  "seqio",
  "tensorflow",
)


def write_jsonl(
  path: pathlib.Path, entries: Iterable[Mapping[str, Any]]
) -> None:
  """Writes one JSON object a line, atomically."""
  lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
  write_atomically(path, "".join(lines))


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads what `write_jsonl` wrote; a missing file is an empty list.

  A last line cut short by a kill is left out.

  Raises:
    UserError: where a line is no JSON object.
  """
  if not path.exists():
    return []
  with damaged_file(path, "delete it, and what can be made again will be"):
    return list(_entries(path))


def _entries(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  plain_files.check(path)
  with open(path, "rb") as file:
    while line := file.readline(_MAX_LINE_BYTES):
      if not line.endswith(b"\n"):
        if len(line) == _MAX_LINE_BYTES:
          raise ValueError(f"a line has more than {_MAX_LINE_BYTES} bytes")
        return
      yield dict(strict_json.loads(line.decode("utf-8"), finite=False))


def metrics_hash(folder: pathlib.Path) -> str:
  """SHA-256 of metrics.jsonl with the times left out."""
  digest = hashlib.sha256()
  path = folder / METRICS_FILE
  with damaged_file(path, "restore it"):
    for line in _entries(path):
      line.pop(TIME, None)
      digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
  return digest.hexdigest()


@contextlib.contextmanager
def locked(model_dir: pathlib.Path) -> Iterator[None]:
  """Holds the run's folder: two processes must not write the same run.

  The lock ends with the process, so a killed run leaves none behind.

  Raises:
    UserError: where another process holds it, or it cannot be written.
  """
  import fcntl

  try:
    model_dir.mkdir(parents=True, exist_ok=True)
    file = open(model_dir / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
  except (OSError, ValueError) as error:
    raise UserError(
      f"model_dir {str(model_dir)!r} is not a folder that can be written to"
      f" ({getattr(error, 'strerror', None) or error}): choose another one",
      fields="TrainConfig.model_dir",
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise UserError(
        f"another process is training in model_dir {str(model_dir)!r}: wait for"
        " it, or choose another one",
        fields="TrainConfig.model_dir",
      ) from error
    yield


def describe_machine() -> dict[str, Any]:
  """Versions, source revision and devices, for `run.json`."""
  import jax

  versions = {}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  devices = jax.devices()
  return {
    "dss_jax": __version__,
    "python": platform.python_version(),
    "versions": versions,
    "revision": source_revision(),
    "platform": devices[0].platform,
    "device_kind": devices[0].device_kind,
    "num_devices": len(devices),
    "num_processes": jax.process_count(),
    "command": sys.argv,
  }


def source_revision() -> str | None:
  """The git commit of the checkout dss_jax runs from, `+` if changed."""
  folder = pathlib.Path(__file__).resolve().parents[2]
  if not (folder / ".git").exists():
    return None

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", "-C", str(folder), *arguments],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    ).stdout.strip()

  try:
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+" if changed else "")
  except (OSError, subprocess.SubprocessError):
    return None


def config_sha(text: str) -> str:
  """A short name of a configuration, for results.jsonl."""
  return hashlib.sha256(text.encode()).hexdigest()[:12]
