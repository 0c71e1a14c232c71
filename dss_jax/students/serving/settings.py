"""What a server may be asked to do, and how much of it."""

from __future__ import annotations

import dataclasses
import ipaddress
import math

from dss_jax.base.errors import UserError, one_line

TOKEN_VARIABLE = "DSS_SERVE_TOKEN"
_SHORTEST_TOKEN = 16

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True)
class ServeSettings:
  """Limits of a server. All times in seconds but `max_wait_ms`.

  Attributes:
    host: address or name to listen on.
    port: 0 takes any free one.
    max_batch: most inputs computed together.
    max_wait_ms: how long the first input of a batch waits for others.
    max_queue: most inputs that wait; beyond, requests are answered 429.
    timeout_s: within which a request is answered; requests may ask for less.
    max_input_chars: of one input.
    max_items: inputs of one request.
    max_body_bytes: of one request.
    max_connections: open at a time; further ones are closed at once.
    read_timeout_s: within which a request's head must be there, and then
      within which its body must; also how long a client may leave an answer
      unread.
    keep_alive_s: after which an idle connection is closed.
    drain_s: how long accepted requests may take once the server stops.
    stuck_after_s: after which a batch that is still computed makes `/healthz`
      say so.
    token: what requests must carry; None for none.
    allowed_hosts: names beside those of the loopback under which a server on
      the loopback may be addressed; for another one, all its names, if given.
    access_log: writes a line for each request.
  """

  host: str = "127.0.0.1"
  port: int = 8080
  max_batch: int = 32
  max_wait_ms: float = 5.0
  max_queue: int = 128
  timeout_s: float = 10.0
  max_input_chars: int = 10_000
  max_items: int = 64
  max_body_bytes: int = 1 << 20
  max_connections: int = 512
  read_timeout_s: float = 10.0
  keep_alive_s: float = 60.0
  drain_s: float = 20.0
  stuck_after_s: float = 120.0
  token: str | None = dataclasses.field(default=None, repr=False)
  allowed_hosts: tuple[str, ...] = ()
  access_log: bool = False

  def __post_init__(self):
    for name, least, most in (
      ("port", 0, 65535),
      ("max_batch", 1, 4096),
      ("max_queue", 1, 1_000_000),
      ("max_items", 1, 4096),
      ("max_input_chars", 1, 1 << 20),
      ("max_body_bytes", 1024, 1 << 28),
      ("max_connections", 1, 100_000),
      ("max_wait_ms", 0, 10_000),
      ("timeout_s", 0.001, 3600),
      ("read_timeout_s", 0.001, 3600),
      ("keep_alive_s", 0, 3600),
      ("drain_s", 0, 3600),
      ("stuck_after_s", 1, 86_400),
    ):
      value = getattr(self, name)
      if not (math.isfinite(value) and least <= value <= most):
        raise UserError(
          f"--{name}={value} is not allowed; give a number from {least:,} to"
          f" {most:,}"
        )
    if self.max_items > self.max_queue:
      raise UserError(
        f"--max_items={self.max_items} exceeds --max_queue={self.max_queue}:"
        " such a request could never wait for its turn; lower the first or"
        " raise the second"
      )
    self._check_token()

  def _check_token(self):
    token = self.token
    if token is None:
      if not self.is_loopback:
        raise UserError(
          f"--host={one_line(self.host)} can be reached from other machines:"
          f" set a token of {_SHORTEST_TOKEN} or more characters in the"
          f" environment variable {TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )
      return
    fine = token.isascii() and token.isprintable() and " " not in token
    if not fine or len(token) < _SHORTEST_TOKEN:
      raise UserError(  # without the value: it may be all but right
        f"the token in {TOKEN_VARIABLE} is not allowed; give"
        f" {_SHORTEST_TOKEN} or more printable ASCII characters without spaces"
      )

  @property
  def is_loopback(self) -> bool:
    """Whether only this machine can reach the server."""
    return is_loopback(self.host)

  @property
  def known_hosts(self) -> frozenset[str] | None:
    """Names under which the server may be addressed; None for any.

    A page of another site can have its own name resolve to the loopback; its
    requests then carry that name.
    """
    names = {name.lower() for name in self.allowed_hosts}
    if self.is_loopback:
      return frozenset(names | {*_LOOPBACK_NAMES, _bracketed(self.host)})
    return frozenset(names) or None


def is_loopback(host: str) -> bool:
  """Whether the host is an address of the loopback, or `localhost`."""
  if host.lower() == "localhost":
    return True
  try:
    address = ipaddress.ip_address(host)
  except ValueError:
    return False
  mapped = getattr(address, "ipv4_mapped", None)
  return (mapped or address).is_loopback


def _bracketed(host: str) -> str:
  return f"[{host}]" if ":" in host else host.lower()
