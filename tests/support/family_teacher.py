"""A large model for a generated dataset, on the loopback, in a chat's wording.

    PYTHONPATH=. python tests/support/family_teacher.py kinds PORT_FILE

It knows the facts of the dataset's questions, words its answers in a dozen ways
as chat models do, answers a share of them wrongly, and fails on a share of
requests: with status 500 or 429, with a body that is no JSON, or by hanging up.
"""

import argparse
import hashlib
import http.server
import json
import pathlib
import threading
from typing import Any

from dss_jax import datasets

_OPENINGS = (
  "Sure! ",
  "Let's think step by step.\n\n",
  "",
  "**Reasoning:** ",
  "Here is what decides: ",
)
_ENDINGS = (
  "So the answer is {}.",
  "So the answer is **{}**.",
  "Therefore, the answer is {}.",
  "**Answer:** {}",
  "\n\nFinal answer: {}",
)


def _draw(text: str, purpose: str) -> float:
  """A number in [0, 1) that depends on both texts."""
  digest = hashlib.sha256(f"{purpose}:{text}".encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64


class FamilyTeacher:
  """The server; `close` it.

  Args:
    dataset: a generated one; the questions are those of its default options.
    wrong: share of questions that it answers wrongly.
    faults: share of requests that fail, drawn anew for each attempt.
    log: a file that gets a line for each answer.
  """

  def __init__(
    self,
    dataset: str,
    *,
    wrong: float = 0.05,
    faults: float = 0.1,
    log: pathlib.Path | None = None,
  ):
    self._records = {
      record.input: record
      for split in datasets.SPLITS
      for record in datasets.load_split(dataset, split)
    }
    self._labels = sorted({r.label for r in self._records.values() if r.label})
    self._wrong, self._faults, self._log = wrong, faults, log
    self._attempts: dict[str, int] = {}
    self._lock = threading.Lock()
    teacher = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        teacher._reply(self, body)

      def log_message(self, format, *args):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def answer(self, question: str) -> str:
    """What the model says to a question."""
    record = self._records[question]
    label = record.label or ""
    if _draw(question, "wrong") < self._wrong:
      others = [each for each in self._labels if each != label]
      label = others[int(_draw(question, "which") * len(others))]
    opening = _OPENINGS[int(_draw(question, "opening") * len(_OPENINGS))]
    ending = _ENDINGS[int(_draw(question, "ending") * len(_ENDINGS))]
    return f"{opening}{record.rationales[0].text}. {ending.format(label)}"

  def _reply(
    self, handler: http.server.BaseHTTPRequestHandler, body: dict[str, Any]
  ) -> None:
    text = body["messages"][-1]["content"]
    question = next(
      line.removeprefix("Input:").strip()
      for line in text.splitlines()
      if line.startswith("Input:")
    )
    with self._lock:
      attempt = self._attempts[text] = self._attempts.get(text, 0) + 1
    fault = _draw(f"{attempt}:{text}", "fault") / max(self._faults, 1e-9)
    if fault < 0.25:
      handler.close_connection = True
      return
    status = 500 if fault < 0.5 else 429 if fault < 0.75 else 200
    answer = {
      "model": body["model"],
      "choices": [
        {
          "index": 0,
          "finish_reason": "stop",
          "message": {"role": "assistant", "content": self.answer(question)},
        }
      ],
      "usage": {"prompt_tokens": 120, "completion_tokens": 40},
    }
    content = json.dumps(answer if status == 200 else {"error": {}}).encode()
    if 0.75 <= fault < 1:
      content = b"<html>gateway</html>"
    elif status == 200 and self._log is not None:
      with self._lock, self._log.open("a") as log:
        log.write(json.dumps({"question": question}) + "\n")
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)

  def close(self) -> None:
    """Ends the server."""
    self._server.shutdown()
    self._server.server_close()


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("dataset")
  parser.add_argument("url_file", type=pathlib.Path)
  parser.add_argument("--wrong", type=float, default=0.05)
  parser.add_argument("--faults", type=float, default=0.1)
  args = parser.parse_args()
  teacher = FamilyTeacher(args.dataset, wrong=args.wrong, faults=args.faults)
  args.url_file.write_text(teacher.base_url)
  threading.Event().wait()


if __name__ == "__main__":
  main()
