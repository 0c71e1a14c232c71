"""Commands of other modes: shown, run as processes of their own, remembered."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.experiments import child_commands
from dss_jax.experiments.distill.project import Project


class Commands:
  """Runs `dss-jax MODE` commands for a project, each of them once.

  A command that was done is not run again, so long as it is the same, the files
  that it reads have not changed and those that it makes are there; all of them
  stand in `commands.sh`, in their order.

  Args:
    project: whose folder has the module with the dataset.
    state: what is remembered between starts; `done` has for each command the
      hashes of what it read.
  """

  def __init__(self, project: Project, state: dict[str, Any]):
    self._project, self._state = project, state
    self._shown: list[str] = []
    if not isinstance(state.get("done"), dict):
      state["done"] = {}

  def run(
    self,
    *words: object,
    reads: Iterable[pathlib.Path] = (),
    makes: Iterable[pathlib.Path] = (),
    allowed: Sequence[int] = (0,),
    again: bool = False,
  ) -> int:
    """Runs a command, whose output the user sees.

    Args:
      words: mode and flags.
      reads: files on which its result depends.
      makes: files that it leaves; without one of them it is not done.
      allowed: exit statuses that are no failure.
      again: whether it runs even if it was done, as what is quick may.

    Returns:
      Its exit status; 0 if it was done before.

    Raises:
      UserError: it failed, and has said why.
      StoppedError: it was stopped.
    """
    command = list(map(str, words))
    done, name, read = self._state["done"], shlex.join(command), hashes(reads)
    is_done = done.get(name) == read and all(path.exists() for path in makes)
    if is_done and not again:
      self._note(command)
      return 0
    print(f"\n$ {self.shown(command)}", flush=True)
    status = child_commands.run(command, self._environment())
    if status not in allowed:
      raise UserError(
        f"`dss-jax {command[0]}` failed with status {status}, and says above why;"
        " when it is mended, the same command continues here"
      )
    self._note(command)
    if status == 0 and done.get(name) != read:
      done[name] = read
      self._project.write_state(self._state)
    return status

  def read(self, *words: object) -> Any:
    """What a command prints, as JSON; it is run anew each time.

    Raises:
      UserError: it failed, and has said why.
    """
    command = list(map(str, words))
    process = subprocess.run(
      child_commands.arguments(command),
      env={**os.environ, **self._environment()},
      stdout=subprocess.PIPE,
      check=False,
    )
    if process.returncode != 0:
      raise UserError(
        f"`{self.shown(command)}` failed with status {process.returncode}"
      )
    return json.loads(process.stdout)

  def shown(self, command: Sequence[str]) -> str:
    """A command as a user would type it, where the project's module matters."""
    prefix = ""
    if any(self._project.module in word for word in command):
      prefix = f"PYTHONPATH={shlex.quote(str(self._project.folder))} "
    return prefix + shlex.join(["dss-jax", *command])

  def _note(self, command: Sequence[str]) -> None:
    """Adds a command to the file of all commands, once."""
    if self.shown(command) not in self._shown:
      self._shown.append(self.shown(command))
    path = self._project.folder / "commands.sh"
    path.write_text(
      "#!/bin/sh\n# What `dss-jax distill` ran, from the folder that it was"
      " started in.\n" + "\n".join(self._shown) + "\n",
      encoding="utf-8",
    )

  def _environment(self) -> dict[str, str]:
    """What lets `--module` find the project's dataset."""
    paths = [str(self._project.folder), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def hashes(files: Iterable[pathlib.Path]) -> dict[str, str]:
  """File -> SHA-256 of its bytes; "" for one that is not there."""
  found = {}
  for path in files:
    found[str(path)] = ""
    if path.is_file():
      with path.open("rb") as file:
        found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
  return found
