"""A stand-in for a local large model, so that this example runs anywhere.

    python stand_in/teacher.py --port=8001

It is no model: it knows the canteen's rules, answers in the wording of chat
models, wrongly once in twenty times, and speaks as much of OpenAI's protocol as
`dss-jax extract` asks for. README says how to ask a real model instead.
"""

import argparse
import hashlib
import http.server
import json

import kitchen

_OPENINGS = ("Sure! ", "Let's think step by step.\n\n", "**Reasoning:** ", "")
_ENDINGS = (
  "So the answer is {}.",
  "Therefore, the answer is **{}**.",
  "**Answer:** {}",
)
_WRONG = 0.05


def _draw(menu: str, purpose: str) -> float:
  """A number in [0, 1), the same whenever the menu is asked about."""
  digest = hashlib.sha256(f"{purpose}: {menu}".encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64


def _one_of(texts: tuple[str, ...], menu: str, purpose: str) -> str:
  return texts[int(_draw(menu, purpose) * len(texts))]


def reply(menu: str) -> str:
  """What a model would say to a menu, in its words."""
  dishes = tuple(sorted(filter(menu.count, kitchen.MADE_OF), key=menu.index))
  answer = kitchen.rating(dishes)
  if _draw(menu, "wrong") < _WRONG:
    others = tuple(x for x in kitchen.RATINGS.values() if x != answer)
    answer = _one_of(others, menu, "answer")
  reason = kitchen.reason(dishes)
  opening = _one_of(_OPENINGS, menu, "opening")
  ending = _one_of(_ENDINGS, menu, "ending").format(answer)
  return f"{opening}{reason[0].upper()}{reason[1:]}. {ending}"


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers POST /v1/chat/completions."""

  protocol_version = "HTTP/1.1"

  def do_POST(self) -> None:
    request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    question = request["messages"][-1]["content"]
    content = reply(question)
    body = {
      "model": request["model"],
      "choices": [
        {
          "index": 0,
          "finish_reason": "stop",
          "message": {"role": "assistant", "content": content},
        }
      ],
      # Words, for want of a tokenizer.
      "usage": {
        "prompt_tokens": sum(
          len(message["content"].split()) for message in request["messages"]
        ),
        "completion_tokens": len(content.split()),
      },
    }
    encoded = json.dumps(body).encode()
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(encoded)))
    self.end_headers()
    self.wfile.write(encoded)

  def log_message(self, format: str, *args: object) -> None:
    """Says nothing of single requests."""


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--port", type=int, default=8001)
  address = ("127.0.0.1", parser.parse_args().port)
  with http.server.ThreadingHTTPServer(address, _Handler) as server:
    print(f"a stand-in answers at http://127.0.0.1:{server.server_port}/v1")
    server.serve_forever()


if __name__ == "__main__":
  main()
