"""A real headless Chromium, where one is installed; a server that answers."""

import base64
import http.server
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_FLAGS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-dev-shm-usage",
  # Whatever asks for the network is seen, and gets none.
  "--host-resolver-rules=MAP * ~NOTFOUND",
  "--remote-debugging-pipe",
)
_TIMEOUT_S = 60.0


class Page:
  """One tab, driven through the DevTools protocol over a pipe.

  Attributes:
    events: what the page has reported: requests, log entries, exceptions.
  """

  def __init__(self, write_fd: int, read_fd: int):
    self._write_fd, self._read_fd = write_fd, read_fd
    self._buffer = b""
    self._last_id = 0
    self._session: str | None = None
    self.events: list[dict[str, Any]] = []
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Sends a command and waits for its result."""
    self._last_id += 1
    message = {"id": self._last_id, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._write_fd, json.dumps(message).encode() + b"\0")
    while (found := self._next()).get("id") != self._last_id:
      self.events.append(found)
    assert "error" not in found, found["error"]
    return found["result"]

  def _next(self) -> dict[str, Any]:
    deadline = time.monotonic() + _TIMEOUT_S
    while b"\0" not in self._buffer:
      left = deadline - time.monotonic()
      ready, _, _ = select.select([self._read_fd], [], [], max(left, 0))
      assert ready, "Chromium does not answer"
      self._buffer += os.read(self._read_fd, 1 << 20)
    message, self._buffer = self._buffer.split(b"\0", 1)
    return json.loads(message)

  def open(self, path: pathlib.Path):
    """Loads a file and waits until it is there."""
    self.events.clear()
    self.call("Page.navigate", url=path.as_uri())
    while not any(
      e.get("method") == "Page.loadEventFired" for e in self.events
    ):
      self.events.append(self._next())

  def js(self, expression: str) -> Any:
    """The value of a JavaScript expression in the page."""
    result = self.call(
      "Runtime.evaluate", expression=expression, returnByValue=True
    )
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def press(self, key: str):
    """Presses and releases a key."""
    text = key if len(key) == 1 else None
    for kind in ("keyDown", "keyUp"):
      params: dict[str, Any] = {"type": kind, "key": key}
      if text and kind == "keyDown":
        params["text"] = text
      self.call("Input.dispatchKeyEvent", **params)

  def look(self, width: int, height: int, *, dark: bool = False):
    """Sets the size of the window and the colours."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 600,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}  # fmt: skip
    self.call("Emulation.setEmulatedMedia", features=[scheme])

  def screenshot(self, path: pathlib.Path):
    """Writes a PNG of the whole page."""
    shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
    path.write_bytes(base64.b64decode(shot["data"]))

  def complaints(self) -> list[Any]:
    """Errors, policy violations and requests to anything but the file."""
    found = []
    for event in self.events:
      method, params = event.get("method"), event.get("params", {})
      if method == "Runtime.exceptionThrown":
        found.append(params["exceptionDetails"])
      elif method == "Log.entryAdded" and params["entry"]["level"] != "verbose":
        found.append(params["entry"])
      elif method == "Network.requestWillBeSent":
        url = params["request"]["url"]
        if not url.startswith("file:") or params["type"] != "Document":
          found.append(url)
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
  """A tab of a real browser; skips where none is installed."""
  program = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
  )  # fmt: skip
  if program is None:
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
  profile = tmp_path_factory.mktemp("chromium")
  to_browser, from_us = os.pipe()
  to_us, from_browser = os.pipe()

  # Chromium reads from 3 and writes to 4. (A function run between fork and
  # exec would be simpler, and is unsafe in a process with threads.)
  start = (
    "import os, sys\n"
    f"os.dup2({to_browser}, 103), os.dup2({from_browser}, 104)\n"
    "os.dup2(103, 3), os.dup2(104, 4)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
  )
  process = subprocess.Popen(
    [
      sys.executable,
      "-c",
      start,
      program,
      *_FLAGS,
      f"--user-data-dir={profile}",
    ],
    pass_fds=(to_browser, from_browser),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    yield Page(from_us, to_us)
  finally:
    process.terminate()
    process.wait(30)
    for descriptor in (to_browser, from_us, to_us, from_browser):
      os.close(descriptor)


class Loopback:
  """An OpenAI-compatible server on the loopback that says what a test wants.

  Attributes:
    base_url: where it is.
    answer: (request body, times that this body came) -> text, or a status.
    bodies: of all requests so far.
    headers: likewise.
  """

  def __init__(self):
    self.answer: Callable[[dict[str, Any], int], str | int] = (
      lambda body, times: "It is so. So the answer is (a) pond."
    )
    self.bodies: list[dict[str, Any]] = []
    self.headers: list[dict[str, str]] = []
    self._lock = threading.Lock()
    own = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_POST(self):
        size = int(self.headers["content-length"])
        body = json.loads(self.rfile.read(size))
        status, told = own._reply(body, self.headers)
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

      def log_message(self, format, *args):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
    self._thread = threading.Thread(
      target=self._server.serve_forever, args=[0.02]
    )
    self._thread.start()

  def _reply(self, body, headers) -> tuple[int, dict[str, Any]]:
    with self._lock:
      times = self.bodies.count(body)
      self.bodies.append(body)
      self.headers.append({k.lower(): v for k, v in headers.items()})
    found = self.answer(body, times)
    if isinstance(found, int):
      return found, {"error": {"message": f"status {found}"}}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if "messages" in body:
      choice["message"] = {"role": "assistant", "content": found}
    else:
      choice["text"] = found
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    model = f"{body['model']}-001"
    return 200, {"model": model, "choices": [choice], "usage": usage}

  def close(self):
    self._server.shutdown()
    self._thread.join()
    self._server.server_close()


@pytest.fixture
def loopback() -> Iterator[Loopback]:
  server = Loopback()
  yield server
  server.close()
