"""What a server may be asked to do, and how much of it."""

from __future__ import annotations

import dataclasses
import ipaddress

from dss_jax.base import checks
from dss_jax.base.errors import UserError, one_line

TOKEN_VARIABLE = "DSS_SERVE_TOKEN"
_SHORTEST_TOKEN = 16

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True)
class ServeSettings:
  """Address and limits of a server. Times are in seconds, except `max_wait_ms`.

  Attributes:
    host: address or name to listen on; every one except the loopback's needs a
      token.
    port: port to listen on; 0 takes any free port and prints it.
    max_batch: the most inputs that are computed together.
    max_wait_ms: how long the first input of a batch waits for others, in
      milliseconds.
    max_queue: the most inputs that wait; requests beyond are answered 429.
    timeout_s: time within which a request is answered, else 504; requests may
      ask for less.
    max_input_chars: the most characters of one input.
    max_items: the most inputs of one request.
    max_body_bytes: the most bytes of one request's body.
    max_connections: the most connections that are open at a time; further
      connections are closed at once.
    read_timeout_s: time within which a request's head must arrive, and then
      its body; also how long a client may leave an answer unread.
    keep_alive_s: an idle connection is closed after this time.
    lame_duck_s: how long after a signal to stop requests are still taken, while
      `/healthz` fails so that a proxy sends its requests elsewhere; a second
      signal ends this time.
    drain_s: how long accepted requests may then take.
    stuck_after_s: a batch that takes longer than this makes `/healthz` fail.
    token: what requests must carry; None for no token.
    allowed_hosts: further names by which clients address the server, as behind
      a proxy. A server on the loopback always has the loopback's names; any
      other server accepts every name unless some are given.
    access_log: write a line for each request to standard error; never its
      texts.
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
  lame_duck_s: float = 0.0
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
      ("lame_duck_s", 0, 3600),
      ("drain_s", 0, 3600),
      ("stuck_after_s", 1, 86_400),
    ):
      checks.in_range(f"ServeSettings.{name}", getattr(self, name), least, most)
    if self.max_items > self.max_queue:
      raise UserError(
        f"max_items is {self.max_items}, more than max_queue, which is"
        f" {self.max_queue}: such a request could never wait for its turn;"
        " lower the first or raise the second",
        fields=("ServeSettings.max_items", "ServeSettings.max_queue"),
      )
    self._check_token()

  def _check_token(self) -> None:
    token = self.token
    if token is None:
      if not self.is_loopback:
        raise UserError(
          f"host is {one_line(self.host)!r}, which other machines can reach:"
          f" set a token of {_SHORTEST_TOKEN} or more characters in the"
          f" environment variable {TOKEN_VARIABLE}, or listen on 127.0.0.1",
          fields="ServeSettings.host",
        )
      return
    allowed = token.isascii() and token.isprintable() and " " not in token
    if not allowed or len(token) < _SHORTEST_TOKEN:
      # The message leaves out the value, which may be nearly right.
      raise UserError(
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
      host = f"[{self.host}]" if ":" in self.host else self.host.lower()
      return frozenset(names | {*_LOOPBACK_NAMES, host})
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
