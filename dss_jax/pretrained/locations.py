"""From what a user calls a checkpoint to a folder on this machine.

A folder is itself. `org/name` or `org/name@revision` is a model on the Hugging
Face hub, `gs://bucket/path` a folder in Google's store. The files that are
needed from there are copied into a cache and found in it the next time, with or
without a network.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import urllib.parse
from collections.abc import Sequence

from dss_jax.base import file_checksums
from dss_jax.base.errors import UserError, one_line

_HUB_ID = re.compile(
  r"([A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95})(?:@([\w.\-/]{1,200}))?"
)
_STORE = re.compile(r"gs://([a-z0-9][a-z0-9._\-]{1,220})/(.+?)/*")
_KEY = re.compile(r"(?:[A-Za-z0-9_][\w.\-]*/)*[A-Za-z0-9_.][\w.\-]*")
# The files that are fetched with the weights.
_SMALL_FILES = (
  "added_tokens.json",
  file_checksums.FILE,
  "config.json",
  "dss_jax.json",
  "spiece.model",
  "tokenizer.json",
  "tokenizer_config.json",
)
# The first kind that a model has is taken, whole or in shards.
_WEIGHTS = (
  re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
  re.compile(r"flax_model(-\d+-of-\d+)?\.msgpack(\.index\.json)?"),
  re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?"),
)
_MAX_FILES = 200_000
_RETRIES = 4


def to_folder(path: str) -> pathlib.Path:
  """The folder of a checkpoint, which is fetched first if it lies elsewhere.

  Args:
    path: a folder, `org/name[@revision]`, or `gs://bucket/path`.

  Raises:
    UserError: where it cannot be fetched, in one line that says why.
  """
  folder = pathlib.Path(os.path.expanduser(path))
  if "://" in path:
    return _from_store(path)
  if "\0" not in path and folder.exists():
    return folder
  match = _HUB_ID.fullmatch(path)
  # A mistyped name next to other folders is not sent to the hub.
  if match is None or folder.parent.is_dir():
    return folder
  return _from_hub(path, *match.groups())


def cache_folder() -> pathlib.Path:
  """Where copies of stores are kept: DSS_JAX_CACHE, or in the user's cache."""
  folder = os.environ.get("DSS_JAX_CACHE")
  if not folder:
    folder = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/dss_jax"
  return pathlib.Path(os.path.expanduser(folder))


# ---------------------------------------------------------- the Hugging Face hub


def _from_hub(path: str, name: str, revision: str | None) -> pathlib.Path:
  problem = (
    f"{path!r} is no folder here, and as a model on the Hugging Face hub"
  )
  try:
    import huggingface_hub
  except ImportError as error:
    raise UserError(
      f"{problem} it needs huggingface_hub: pip install huggingface_hub, or give"
      " a folder"
    ) from error
  try:
    info = huggingface_hub.HfApi().model_info(name, revision=revision)
    wanted = _needed([file.rfilename for file in info.siblings or ()])
    if not wanted:
      raise UserError(
        f"{problem} it has no config.json with weights that are read"
      )
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        name, revision=info.sha, allow_patterns=wanted
      )
    )
  except UserError:
    raise
  except Exception as error:  # from the network, the hub or the disk
    with contextlib.suppress(Exception):  # there may be an earlier download
      return pathlib.Path(
        huggingface_hub.snapshot_download(
          name, revision=revision, local_files_only=True
        )
      )
    reason = one_line(error, longest=160) or type(error).__name__
    raise UserError(
      f"{problem} it could not be fetched ({reason}): check the name and the"
      " network, or give a folder"
    ) from error


def _needed(files: Sequence[str]) -> list[str]:
  """Which of a model's files to fetch; none where there are no weights."""
  for kind in _WEIGHTS:
    weights = [name for name in files if kind.fullmatch(name)]
    if weights and "config.json" in files:
      whole = [name for name in weights if "-of-" not in name]
      plain = [name for name in whole if not name.endswith(".index.json")]
      return [*(n for n in _SMALL_FILES if n in files), *(plain or weights)]
  return []


# ----------------------------------------------------------------- Google's store


def _from_store(path: str) -> pathlib.Path:
  """The cache's copy of all files below a path in a store."""
  match = _STORE.fullmatch(path)
  if match is None or {".", ".."} & set(match.group(2).split("/")):
    raise UserError(
      f"{path!r} is no path in a store; give gs://BUCKET/PATH, or a folder"
    )
  bucket, prefix = match.groups()
  # A copy of a/b does not lie within one of a, which would then seem to be
  # there already.
  name = urllib.parse.quote(prefix, safe="")
  folder = cache_folder() / "checkpoints" / bucket / name
  if folder.is_dir():
    return folder
  part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
  try:
    _copy(bucket, f"{prefix}/", part)
    part.rename(folder)
  except UserError:
    raise
  except Exception as error:  # from the network, the store or the disk
    if folder.is_dir():  # another process was faster
      return folder
    reason = one_line(error, longest=160) or type(error).__name__
    raise UserError(
      f"{path!r} could not be fetched ({reason}): check the path and the"
      " network, or copy it here and give the folder"
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
  return folder


def _copy(bucket: str, prefix: str, folder: pathlib.Path) -> None:
  """Copies all files below a prefix."""
  import tensorstore as ts

  context = {"gcs_request_retries": {"max_retries": _RETRIES}}
  spec = {"driver": "gcs", "bucket": bucket, "path": prefix, "context": context}
  store = ts.KvStore.open(spec).result()
  keys = [key.decode("utf-8") for key in store.list().result()]
  _check_keys(bucket, prefix, keys)
  for key in keys:
    file = folder / key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(store.read(key).result().value)


def _check_keys(bucket: str, prefix: str, keys: Sequence[str]) -> None:
  where = f"gs://{bucket}/{prefix}"
  if not keys:
    raise UserError(f"{where!r} is empty or not there; check the path")
  if len(keys) > _MAX_FILES:
    raise UserError(
      f"{where!r} has {len(keys)} files; at most {_MAX_FILES} are copied: give"
      " the folder of one checkpoint"
    )
  for key in keys:
    if not _KEY.fullmatch(key) or ".." in key.split("/"):
      raise UserError(
        f"{where!r} has a file {one_line(repr(key), longest=80)}, which is no"
        " plain path"
      )
