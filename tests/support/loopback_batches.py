"""OpenAI's interface for files and batches, on the loopback."""

import email.parser
import email.policy
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# What a batch goes through, one step each time that it is looked at.
STEPS = ("validating", "in_progress", "finalizing", "completed")


class LoopbackBatches:
  """A server of /v1/files and /v1/batches that a test controls.

  Attributes:
    base_url: the server's address.
    answer: body of a request -> (HTTP status, body) of its line; None leaves it
      without a line.
    files: id -> content.
    batches: id -> batch, as the interface shows it.
    headers: headers of all requests so far.
    lose_created: whether the next batch is made without an answer.
    invalid: what is wrong with the next batch's file; "" for nothing.
  """

  def __init__(self):
    self.answer: Callable[[dict[str, Any]], tuple[int, Any] | None] = (
      lambda body: (200, chat("It is so. So the answer is red."))
    )
    self.files: dict[str, bytes] = {}
    self.batches: dict[str, dict[str, Any]] = {}
    self.headers: list[dict[str, str]] = []
    self.lose_created = False
    self.invalid = ""
    self._lock = threading.Lock()
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_GET(self):
        self._reply(b"")

      def do_POST(self):
        size = int(self.headers.get("content-length", 0))
        self._reply(self.rfile.read(size))

      def _reply(self, body):
        with outer._lock:
          outer.headers.append({k.lower(): v for k, v in self.headers.items()})
          found = outer._route(self.command, self.path, self.headers, body)
        if found is None:
          self.close_connection = True
          return
        status, content = found
        if not isinstance(content, bytes):
          content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
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

  def _route(self, method, path, headers, body) -> tuple[int, Any] | None:
    path, _, _ = path.partition("?")
    if (method, path) == ("POST", "/v1/files"):
      return self._upload(headers, body)
    if match := re.fullmatch(r"/v1/files/([\w-]+)/content", path):
      return 200, self.files[match[1]]
    if (method, path) == ("POST", "/v1/batches"):
      return self._create(json.loads(body))
    if (method, path) == ("GET", "/v1/batches"):
      newest = list(self.batches.values())[::-1]
      return 200, {"object": "list", "data": newest, "has_more": False}
    if match := re.fullmatch(r"/v1/batches/([\w-]+)(/cancel)?", path):
      batch = self.batches.get(match[1])
      if batch is None:
        return 404, {"error": {"message": f"No batch {match[1]}"}}
      if match[2] and batch["status"] not in ("completed", "failed"):
        self._finish(batch, "cancelled", share=0.5)
      else:
        self._step(batch)
      return 200, batch
    return 404, {"error": {"message": f"no such path: {path}"}}

  def _upload(self, headers, body) -> tuple[int, Any]:
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
      f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body
    )
    parts: dict[Any, Any] = {}
    for part in parsed.iter_parts():  # type: ignore[attr-defined]
      name = part.get_param("name", header="content-disposition")
      parts[name] = part.get_payload(decode=True)
    if parts["purpose"] != b"batch":
      return 400, {"error": {"message": "purpose must be batch"}}
    return 200, self._new_file(parts["file"], "batch")

  def _new_file(self, content: bytes, purpose: str) -> dict[str, Any]:
    name = f"file-{len(self.files)}"
    self.files[name] = content
    return {
      "id": name,
      "object": "file",
      "bytes": len(content),
      "created_at": int(time.time()),
      "filename": f"{name}.jsonl",
      "purpose": purpose,
      "status": "processed",
    }

  def _create(self, asked: dict[str, Any]) -> tuple[int, Any] | None:
    lines = self._lines(asked["input_file_id"])
    assert {line["url"] for line in lines} == {asked["endpoint"]}
    assert {line["method"] for line in lines} == {"POST"}
    batch = {
      "id": f"batch-{len(self.batches)}",
      "object": "batch",
      "endpoint": asked["endpoint"],
      "errors": None,
      "input_file_id": asked["input_file_id"],
      "completion_window": asked["completion_window"],
      "status": STEPS[0],
      "output_file_id": None,
      "error_file_id": None,
      "created_at": int(time.time()),
      "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
      "metadata": None,
    }
    self.batches[batch["id"]] = batch
    if self.invalid:
      error = {"code": "invalid", "line": 1, "message": self.invalid}
      batch["errors"] = {"object": "list", "data": [error]}
      batch["status"], self.invalid = "failed", ""
    if self.lose_created:
      self.lose_created = False
      return None
    return 200, batch

  def _step(self, batch: dict[str, Any]) -> None:
    if batch["status"] not in STEPS[:-1]:
      return
    status = STEPS[STEPS.index(batch["status"]) + 1]
    if status == "completed":
      self._finish(batch, status)
    else:
      batch["status"] = status

  def _finish(self, batch, status: str, share: float = 1.0) -> None:
    """Writes the files of what is answered: a share of the lines."""
    lines = self._lines(batch["input_file_id"])
    found: dict[str, list[str]] = {"output": [], "error": []}
    for line in lines[: int(share * len(lines))]:
      answer = self.answer(line["body"])
      if answer is None:
        continue
      code, body = answer
      result = {
        "id": "batch_req_1",
        "custom_id": line["custom_id"],
        "response": {"status_code": code, "request_id": "r", "body": body},
        "error": None,
      }
      kind = "output" if code == 200 else "error"
      found[kind].append(json.dumps(result) + "\n")
    for kind, results in found.items():
      if results:
        content = "".join(results).encode()
        made = self._new_file(content, "batch_output")
        batch[f"{kind}_file_id"] = made["id"]
    counts = batch["request_counts"]
    counts["completed"] = len(found["output"])
    counts["failed"] = len(found["error"])
    batch["status"] = status

  def _lines(self, file_id: str) -> list[dict[str, Any]]:
    return list(map(json.loads, self.files[file_id].splitlines()))

  def close(self):
    self._server.shutdown()
    self._thread.join()
    self._server.server_close()


def chat(text: str, **usage: int) -> dict[str, Any]:
  """The body of an answer to a chat."""
  message = {"role": "assistant", "content": text}
  return {
    "model": "m-001",
    "created": int(time.time()),
    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 10} | usage,
  }


@pytest.fixture
def loopback_batches() -> Iterator[LoopbackBatches]:
  server = LoopbackBatches()
  yield server
  server.close()
