"""The key of an endpoint: where it comes from, and that it goes nowhere else."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import urllib.parse
from typing import Any

from dss_jax.base.errors import UserError, one_line
from dss_jax.rationales.teachers.endpoint_options import EndpointOptions

# A command that logs in may ask a server.
_COMMAND_TIMEOUT_S = 60.0
_MAX_KEY_CHARS = 16_384
_SECRET_HEADER = re.compile("key|token|auth|secret|cookie", re.IGNORECASE)


class ApiKey:
  """A key that does not show itself, and may be renewed.

  It is read from the environment variable `api_key_env`, or from the first line
  that `api_key_command` prints, which is run again when the endpoint says that
  the key is not valid (any more).

  Args:
    endpoint: whose key.

  Raises:
    UserError: there is none, and the endpoint is not on this machine.
  """

  def __init__(self, endpoint: EndpointOptions):
    self._command = endpoint.api_key_command
    self._header = endpoint.api_key_header
    self._further = dict(endpoint.headers)
    self._secrets = [
      value for name, value in endpoint.headers if _SECRET_HEADER.search(name)
    ]
    # Whether the endpoint has taken the present key.
    self._has_worked = True
    self.source = "that api_key_command prints"
    self.field = "Endpoint.api_key_command"
    if not self._command:
      variable = _shown_variable(endpoint.api_key_env)
      self.source = f"in the environment variable {variable}"
      self.field = "Endpoint.api_key_env"
    self._set(
      self._printed()
      if self._command
      else os.environ.get(endpoint.api_key_env, "").strip()
    )
    if not self._value and not is_local(endpoint.url):
      raise UserError(
        f"the environment variable {variable} holds no API key for"
        f" {endpoint.url}; set it, or name another variable",
        fields=self.field,
      )

  def __repr__(self) -> str:
    return "<API key>"

  def __reduce__(self) -> Any:
    raise TypeError("an API key is not to be stored")

  def headers(self) -> dict[str, str]:
    """The headers that log in, and the user's own."""
    found = dict(self._further)
    if self._value and self._header == "Authorization":
      found["Authorization"] = f"Bearer {self._value}"
    elif self._value:
      found[self._header] = self._value
    return found

  def worked(self) -> None:
    """Notes that the endpoint takes the present key."""
    self._has_worked = True

  async def renew(self, used: dict[str, str], lock: asyncio.Lock) -> bool:
    """Runs the command again after the endpoint refused a key.

    Args:
      used: the headers that were refused.
      lock: of the running loop; only one renews.

    Returns:
      Whether there is another key than the refused one. One that no request
      has worked with yet is not replaced: the key is then not the trouble.

    Raises:
      UserError: the command fails.
    """
    async with lock:
      if self.headers() != used:
        return True
      if not self._command or not self._has_worked:
        return False
      self._set(await asyncio.to_thread(self._printed))
      self._has_worked = False
      return self.headers() != used

  def removed_from(self, text: str) -> str:
    """The text as it is, unless a server sends a key back."""
    for secret in self._secrets:
      # A word as short as this is no key, and may well occur in an answer.
      if len(secret) >= 8 and secret in text:
        text = text.replace(secret, "[API key]")
    return text

  def _set(self, value: str) -> None:
    """Takes a new key.

    Raises:
      UserError: no key looks so.
    """
    if not value.isascii() or not value.isprintable():
      raise UserError(
        f"the key {self.source} has characters that no API key has; set it"
        " again",
        fields=self.field,
      )
    self._value = value
    self._secrets.append(value)

  def _printed(self) -> str:
    """The first line that the command prints.

    Raises:
      UserError: it cannot be run, fails, or prints nothing.
    """
    assert self._command is not None
    try:
      done = subprocess.run(
        shlex.split(self._command, posix=os.name != "nt"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
      )
    except subprocess.TimeoutExpired:
      raise self._error(f"took more than {_COMMAND_TIMEOUT_S:g} s") from None
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", None) or str(error)
      raise self._error(f"cannot be run: {reason}") from None
    if done.returncode:
      said = done.stderr[:1000].decode("utf-8", "replace")
      raise self._error(
        f"failed with exit status {done.returncode}: {one_line(said)}"
      )
    printed = done.stdout[:_MAX_KEY_CHARS].decode("utf-8", "replace").strip()
    if not printed:
      raise self._error("printed nothing")
    return printed.splitlines()[0].strip()

  def _error(self, reason: str) -> UserError:
    return UserError(f"api_key_command {reason}", fields=self.field)


def _shown_variable(name: str) -> str:
  """The name, if it is one: some users write the key itself in its place.

  Raises:
    UserError: no variable can be called so.
  """
  if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
    raise UserError(
      "api_key_env is no name of an environment variable; the key itself"
      " belongs into that variable, not here",
      fields="Endpoint.api_key_env",
    )
  if name in os.environ or re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+", name):
    return name
  return "that api_key_env names"


def is_local(url: str) -> bool:
  """Whether a URL is one of this machine."""
  host = urllib.parse.urlsplit(url).hostname or ""
  return host in ("localhost", "::1") or host.startswith("127.")
