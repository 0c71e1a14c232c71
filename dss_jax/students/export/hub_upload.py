"""Exported folders on the Hugging Face hub, through its own library.

A repository is private unless somebody says otherwise, and nothing is uploaded
to a public one that was asked to be private.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from dss_jax.base.errors import StorageError, UserError, one_line

_FIELD = "push_to_hub"
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}")


class Upload:
  """A repository that may be written to."""

  def __init__(self, repo: str, *, public: bool = False):
    """Makes the repository, or looks at the one that is there.

    Args:
      repo: `org/name`.
      public: whether everybody may read it.

    Raises:
      UserError: without the library or a login, for a name that is none, or a
        repository that others may or may not read, other than asked for.
    """
    if not _NAME.fullmatch(repo):
      raise UserError(
        f"push_to_hub is {repo!r}; it must be ORGANISATION/NAME or USER/NAME",
        fields=_FIELD,
      )
    try:
      import huggingface_hub
    except ImportError as error:
      raise UserError(
        f"push_to_hub is {repo!r}, which needs huggingface_hub: pip install"
        " 'dss_jax[hf]'",
        fields=_FIELD,
      ) from error
    self.repo = repo
    self._api: Any = huggingface_hub.HfApi(library_name="dss_jax")
    with _refusing(repo):
      self._api.create_repo(repo, private=not public, exist_ok=True)
      is_private = bool(self._api.model_info(repo).private)
    if is_private == public:
      found, wanted = ("private", "public") if public else ("public", "private")
      raise UserError(
        f"the repository {repo!r} is there and {found}, and would have been"
        f" {wanted}: change it on the hub, set public to {not public}, or give"
        " another name",
        fields=(_FIELD, "public"),
      )

  def send(self, folder: str, report: Callable[[str], None]) -> str:
    """Uploads all files of a folder in one commit.

    Args:
      folder: the exported one.
      report: gets what is uploaded, in words.

    Returns:
      The commit's address.

    Raises:
      StorageError: where the upload fails; the folder stays.
    """
    files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    names = ", ".join(sorted(str(path.relative_to(folder)) for path in files))
    report(
      f"uploading {len(files)} files, {size / 1e6:,.1f} MB, to {self.repo}:"
      f" {one_line(names, longest=400)}"
    )
    try:
      commit = self._api.upload_folder(
        repo_id=self.repo,
        folder_path=folder,
        commit_message="Upload a student exported by dss_jax",
      )
    except Exception as error:  # from the network or the hub
      raise StorageError(
        f"{folder} is written, and could not be uploaded to {self.repo!r}"
        f" ({one_line(error)}): upload it by `hf upload {self.repo} {folder}`"
      ) from error
    return str(commit.commit_url)


@contextlib.contextmanager
def _refusing(repo: str) -> Iterator[None]:
  """Turns what the hub and the network raise into one line."""
  try:
    yield
  except Exception as error:  # its library has many kinds
    reason = one_line(error) or type(error).__name__
    raise UserError(
      f"push_to_hub is {repo!r}, which the hub refuses ({reason}): log in with a"
      " token that may write (hf auth login, or HF_TOKEN), and check the name",
      fields=_FIELD,
    ) from error
