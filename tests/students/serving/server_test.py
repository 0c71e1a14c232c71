"""A server in a process of its own: its end, and clients that misbehave."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from dss_jax.base.errors import UserError
from dss_jax.students.serving import server as server_lib
from dss_jax.students.serving.settings import ServeSettings

pytestmark = pytest.mark.slow

_PROGRAM = pathlib.Path(__file__).parents[2] / "support" / "echo_server.py"
_ROOT = _PROGRAM.parent.parent.parent


@dataclasses.dataclass
class Running:
  """A server's process and where it listens."""

  process: subprocess.Popen[str]
  port: int
  lines: list[str]

  def connect(self, timeout: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", self.port), timeout)

  def ask(self, text: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer; raises OSError without one."""
    client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
    try:
      client.request(
        "POST",
        "/v1/predict",
        json.dumps({"input": text, **fields}),
        {"Content-Type": "application/json"},
      )
      answer = client.getresponse()
      return answer.status, json.loads(answer.read())
    except http.client.HTTPException as error:
      raise ConnectionError(str(error)) from error
    finally:
      client.close()

  def get(self, path: str) -> tuple[int, str]:
    client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
    try:
      client.request("GET", path)
      answer = client.getresponse()
      return answer.status, answer.read().decode()
    finally:
      client.close()

  def metric(self, name: str) -> float:
    text = self.get("/metrics")[1]
    return float(dict(x.rsplit(" ", 1) for x in text.splitlines())[name])

  def wait_for_line(self, part: str) -> None:
    assert self.process.stdout is not None
    for line in self.process.stdout:
      self.lines.append(line.strip())
      if part in line:
        return
    raise AssertionError(self.lines)

  def finish(self, timeout: float = 30.0) -> tuple[int, str, str]:
    """Exit status, rest of standard output, standard error."""
    out, err = self.process.communicate(timeout=timeout)
    return self.process.returncode, out, err


@contextlib.contextmanager
def _server(*flags: str, ready: bool = True) -> Iterator[Running]:
  with subprocess.Popen(
    [sys.executable, str(_PROGRAM), "--port=0", *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=_ROOT,
    env={"PYTHONPATH": str(_ROOT), "PATH": ""},
  ) as process:
    running = Running(process, 0, [])
    try:
      running.wait_for_line("listening on")
      running.port = int(running.lines[-1].rsplit(":", 1)[1])
      if ready:
        running.wait_for_line("ready")
      yield running
    finally:
      process.kill()


class Clients:
  """Requests from threads of their own, and how each ended."""

  def __init__(self, running: Running, texts: list[str], **fields: Any):
    self.answers: dict[str, Any] = {}

    def ask(text: str) -> None:
      try:
        self.answers[text] = running.ask(text, **fields)
      except OSError as error:
        self.answers[text] = error

    self._threads = [
      threading.Thread(target=ask, args=[text]) for text in texts
    ]
    for thread in self._threads:
      thread.start()

  def join(self) -> dict[str, Any]:
    for thread in self._threads:
      thread.join(60)
      assert not thread.is_alive()
    return self.answers


def _until(condition) -> None:
  deadline = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _right(text: str, answer: Any) -> bool:
  return answer[0] == 200 and answer[1]["predictions"][0]["label"] == text[::-1]


TEXTS = [f"text {i}" for i in range(40)]


# --- the end -----------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_all_that_was_accepted(number):
  with _server("--seconds=0.3", "--max_batch=8") as running:
    clients = Clients(running, TEXTS)
    _until(lambda: running.metric("dss_jax_open_requests") == len(TEXTS))
    running.process.send_signal(number)
    answers = clients.join()
    assert all(_right(text, answer) for text, answer in answers.items())
    with pytest.raises(ConnectionError):
      running.ask("too late")
    status, out, err = running.finish()
    assert (status, err) == (0, "")
    assert "requests to answer first" in out
    assert out.splitlines()[-1] == "stopped"


def test_a_signal_while_idle_or_warming_up_ends_it_at_once():
  for flags in ((), ("--warm_up_s=60",)):
    with _server(*flags, ready=not flags) as running:
      if flags:
        _until(lambda run=running: run.get("/healthz")[0] == 503)
        assert running.get("/livez")[0] == 200
        status, answer = running.ask("early")
        assert (status, "warming up" in answer["error"]) == (503, True)
      idle = running.connect()
      running.process.terminate()
      assert running.finish()[0] == 0
      assert idle.recv(1) == b""
      idle.close()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_before_it_stops_it_can_send_clients_elsewhere(second):
  flags = ("--seconds=0.2", "--max_batch=8", "--lame_duck_s=3600")
  with _server(*flags) as running:
    running.process.terminate()
    _until(lambda: running.get("/healthz")[0] == 503)
    assert "stopping soon" in running.get("/healthz")[1]
    assert running.get("/livez")[0] == 200
    assert running.metric("dss_jax_ready") == 0
    with running.connect() as client:
      client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
      received = _closed_within(client, 10)
      assert b"\r\nconnection: close\r\n" in received
    clients = Clients(running, TEXTS)
    _until(lambda: running.metric("dss_jax_open_requests") == len(TEXTS))
    running.process.send_signal(second)  # and that is enough
    answers = clients.join()
    assert all(_right(text, answer) for text, answer in answers.items())
    status, out, err = running.finish()
    assert (status, err) == (0, "")
    assert "requests to answer first" in out
    assert out.splitlines()[-1] == "stopped"


def test_the_time_before_it_stops_ends():
  with _server("--lame_duck_s=0.3") as running:
    running.process.terminate()
    status, out, err = running.finish()
    assert (status, err) == (0, "")
    assert out.splitlines() == [
      *("stopping in 0.3 s; a second signal stops it now", "stopped")
    ]


def test_two_signals_while_it_drains_lose_nothing():
  with _server("--seconds=0.3", "--max_batch=8") as running:
    clients = Clients(running, TEXTS)
    _until(lambda: running.metric("dss_jax_open_requests") == len(TEXTS))
    running.process.terminate()
    running.wait_for_line("requests to answer first")
    running.process.terminate()
    answers = clients.join()
    assert all(_right(text, answer) for text, answer in answers.items())
    assert running.finish()[0] == 0


def test_requests_that_cannot_be_drained_in_time_get_an_answer():
  flags = ("--seconds=3", "--max_batch=1", "--drain_s=1")
  with _server(*flags) as running:
    clients = Clients(running, ["a", "b", "c"])
    _until(lambda: running.metric("dss_jax_open_requests") == 3)
    running.process.terminate()
    answers = clients.join()
    assert [answers[text][0] for text in "abc"] == [503] * 3
    assert "stopping" in answers["a"][1]["error"]
    assert running.finish()[0] == 0


def test_killed_it_answers_nobody_wrongly():
  """Whoever has no answer knows: the connection is closed."""
  with _server("--seconds=0.3", "--max_batch=8") as running:
    clients = Clients(running, TEXTS)
    _until(lambda: running.metric("dss_jax_open_requests") > 0)
    _until(lambda: len(clients.answers) >= 8)
    running.process.kill()
    answers = clients.join()
    errors = [a for a in answers.values() if isinstance(a, OSError)]
    rest = {t: a for t, a in answers.items() if not isinstance(a, OSError)}
    assert len(answers) == len(TEXTS)
    assert len(errors) >= 8
    assert all(_right(text, answer) for text, answer in rest.items())


def test_a_predictor_that_dies_takes_the_process_with_it():
  with _server("--seconds=0.3", "--max_batch=1") as running:
    clients = Clients(running, ["first", "die", "waits"])
    answers = clients.join()
    assert answers["die"][0] == 500
    assert "the predictor has stopped" in answers["die"][1]["error"]
    assert {a[0] for a in answers.values()} <= {200, 500}
    status, _, err = running.finish()
    assert status == 1
    assert "the predictor has died" in err


def test_an_address_that_is_taken_is_reported_in_one_line():
  with contextlib.closing(server_lib.bind(ServeSettings(port=0))) as taken:
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port} .*another port"):
      server_lib.bind(ServeSettings(port=port))
  for host in ("192.0.2.1", "ä..b"):
    with pytest.raises(UserError, match="or host"):
      server_lib.bind(ServeSettings(host=host, token="x" * 16))


# --- clients that misbehave --------------------------------------------------


@pytest.fixture(scope="module", params=["fastest", "pure_python"])
def patient(request) -> Iterator[Running]:
  """A server that loses patience after a second."""
  flags = ["--pure_python"] if request.param == "pure_python" else []
  with _server("--read_timeout_s=1", "--max_connections=20", *flags) as running:
    yield running
    assert _right("still fine", running.ask("still fine"))
    running.process.terminate()
    status, _, err = running.finish()
    assert (status, err) == (0, "")


def _closed_within(client: socket.socket, seconds: float) -> bytes:
  """All that comes until the connection is closed."""
  client.settimeout(seconds)
  received = b""
  try:
    while part := client.recv(65536):
      received += part
  except ConnectionResetError:
    pass
  return received


def _send_until_closed(client: socket.socket, data: bytes) -> None:
  for _ in range(1000):
    with contextlib.suppress(TimeoutError):
      client.sendall(data)
    time.sleep(0.05)


HEAD = (
  b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
  b"Content-Type: application/json\r\n"
)


def test_heads_that_never_end(patient):
  with patient.connect() as client:
    assert _closed_within(client, 10) == b""  # nothing was said at all
  with patient.connect() as client:
    client.sendall(HEAD)
    with pytest.raises(ConnectionError):
      _send_until_closed(client, b"X: y\r\n")


def test_a_second_head_that_never_ends(patient):
  with patient.connect() as client:
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he")
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    client.sendall(b"al")
    _closed_within(client, 10)


def test_huge_heads(patient):
  for size in (1 << 15, 1 << 20):
    with patient.connect() as client:
      with contextlib.suppress(OSError):
        client.sendall(HEAD)
        for _ in range(size // 4096):
          client.sendall(b"X: " + b"y" * 4091 + b"\r\n")
          time.sleep(0.001)
      got = _closed_within(client, 10)
      assert got == b"" or got.split()[1] in (b"431", b"400")


def test_bodies_without_an_end(patient):
  with patient.connect() as client:
    client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(OSError):
      for _ in range(40):
        client.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    assert b" 413 " in _closed_within(client, 10)[:20]
  with patient.connect() as client:
    client.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert b" 408 " in _closed_within(client, 10)[:20]
  with patient.connect() as client:
    client.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
    with contextlib.suppress(OSError):
      for _ in range(20):  # slowly, a byte at a time
        client.sendall(b" ")
        time.sleep(0.1)
    assert b" 408 " in _closed_within(client, 10)[:20]


def test_requests_that_are_none(patient):
  for data in (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",  # no Host
    b"GET /healthz HTTP/1.1\r\nHost: evil.org\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: evil.org\r\nHost: localhost\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    HEAD + b"Content-Type: text/plain\r\nContent-Length: 1\r\n\r\n1",
    HEAD + b"X: \0\r\n\r\n",
    HEAD.replace(b" HTTP", b"?\xff HTTP") + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    HEAD + b"Content-Length: -5\r\n\r\n",
    HEAD + b"Content-Length: 1e9\r\n\r\n",
    b"GET http://evil.org/ HTTP/1.1\r\nHost: evil.org\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\0" * 100,
  ):
    with patient.connect() as client:
      client.sendall(data)
      got = _closed_within(client, 10)
      assert not got or got.split()[1][:1] == b"4", (data, got)
      if got:
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"application/json" in head
        assert json.loads(body)["error"]


def test_heads_that_hold_much(patient):
  end = b"Host: localhost\r\nConnection: close\r\n"
  for data, statuses in (
    (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 2000, (b"200",)),
    (b"GET /healthz?" + b"q" * 15_000 + b" HTTP/1.1\r\n", (b"200",)),
    (b"GET /" + b"p" * 300_000 + b" HTTP/1.1\r\n", (b"400", b"431")),
  ):
    with patient.connect() as client:
      with contextlib.suppress(OSError):
        client.sendall(data + end + b"\r\n")
      got = _closed_within(client, 10)
      # The answer to what still arrives may be lost.
      assert got[9:12] in statuses or (not got and len(statuses) > 1)


def test_a_head_is_answered_without_a_body(patient):
  with patient.connect() as client:
    for path in (b"/healthz", b"/", b"/v1/model"):
      client.sendall(b"HEAD " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
      got = client.recv(65536)
      assert got.startswith(b"HTTP/1.1 200")
      assert b"\r\ncontent-length: " in got
      assert got.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("flags", [(), ("--pure_python",)])
def test_what_is_no_request_does_not_answer_the_one_before(flags):
  with (
    _server("--seconds=0.5", *flags) as running,
    running.connect() as client,
  ):
    body = b'{"input": "slow"}'
    client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    _until(lambda: running.metric("dss_jax_predictor_busy_seconds") > 0)
    client.sendall(b"\0\0 garbage\r\n\r\n")
    got = _closed_within(client, 10)
    assert got.startswith(b"HTTP/1.1 200")
    # The pure parser reads on after the answer, and then answers that too.
    assert got.count(b"HTTP/1.1 200") == 1
    assert got.count(b"HTTP/1.1 400") <= len(flags)


def test_a_websocket_is_no_way_in(patient):
  with patient.connect() as client:
    client.sendall(
      b"GET /v1/predict HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
      b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
      b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    assert client.recv(65536).startswith(b"HTTP/1.1 405")


def test_answers_that_nobody_reads(patient):
  with patient.connect() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(0.5)
    request = b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    # The server stops to read, then loses patience and closes the connection.
    with pytest.raises(ConnectionError):
      _send_until_closed(client, request)
    assert patient.get("/healthz")[0] == 200


def test_too_many_connections_are_closed(patient):
  clients = [patient.connect() for _ in range(40)]
  time.sleep(0.3)
  closed = 0
  for client in clients:
    client.settimeout(0.01)
    try:
      closed += client.recv(1) == b""
    except TimeoutError:
      pass
    except ConnectionError:
      closed += 1
    client.close()
  assert closed >= 20
  _until(lambda: _status(patient) == 200)


def _status(running: Running) -> int:
  try:
    return running.get("/healthz")[0]
  except (OSError, http.client.HTTPException):
    return 0


def test_pipelined_requests_are_answered_in_order(patient):
  requests = b""
  for i in range(5):
    body = json.dumps({"input": f"number {i}"}).encode()
    requests += HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
  with patient.connect() as client:
    client.sendall(requests)
    received = b""
    while received.count(b'"model"') < 5:
      part = client.recv(65536)
      assert part
      received += part
  places = [received.index(f"{i} rebmun".encode()) for i in range(5)]
  assert places == sorted(places)


@pytest.mark.parametrize("flags", [(), ("--pure_python",)])
def test_a_second_head_while_the_first_request_is_answered(flags):
  with _server("--seconds=2", *flags) as running, running.connect() as client:
    body = b'{"input": "slow"}'
    client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    _until(lambda: running.metric("dss_jax_predictor_busy_seconds") > 0)
    client.sendall(b"GET / HTTP/1.1\r\n")
    client.settimeout(1)
    # It is closed, or no longer read.
    with pytest.raises((ConnectionError, TimeoutError)):
      client.sendall((b"X: " + b"y" * 4091 + b"\r\n") * (1 << 12))


def test_a_client_that_leaves_while_it_waits():
  with _server("--seconds=0.5", "--max_batch=1") as running:
    first = Clients(running, ["first"])
    _until(lambda: running.metric("dss_jax_predictor_busy_seconds") > 0)
    body = json.dumps({"inputs": ["gone"] * 9}).encode()
    with running.connect() as client:
      client.sendall(
        HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
      )
      _until(lambda: running.metric("dss_jax_queue_inputs") == 9)
    _until(lambda: running.metric("dss_jax_queue_inputs") == 0)
    name = 'dss_jax_dropped_inputs_total{reason="disconnected"}'
    assert running.metric(name) >= 8
    assert _right("first", first.join()["first"])
