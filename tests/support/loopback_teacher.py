"""An OpenAI-compatible server on the loopback, with a test's own answers."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Loopback:
  """An OpenAI-compatible server on the loopback that a test controls.

  Attributes:
    base_url: the server's address.
    answer: (request body, times that this body came before) -> text, an HTTP
      status, or a whole body.
    bodies: bodies of all requests so far.
    headers: headers of all requests so far.
  """

  def __init__(self):
    self.answer: Callable[[dict[str, Any], int], str | int | dict] = (
      lambda body, times: "It is so. So the answer is (a) pond."
    )
    self.bodies: list[dict[str, Any]] = []
    self.headers: list[dict[str, str]] = []
    self._lock = threading.Lock()
    loopback = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_POST(self):
        size = int(self.headers["content-length"])
        body = json.loads(self.rfile.read(size))
        status, answer = loopback._reply(body, self.headers)
        content = json.dumps(answer).encode()
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
    if isinstance(found, dict):
      return 200, found
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
