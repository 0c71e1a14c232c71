"""A stand-in for a local large model, so that this example runs anywhere.

    python stand_in/teacher.py --port=8001

It is no model: it knows the kitchen's rules, answers in the wording of chat
models, wrongly once in twenty times, and speaks as much of OpenAI's protocol as
`dss-jax extract` asks for. README says how to ask a real model instead.
"""

import argparse
import hashlib
import http.server
import json

import menu

_OPENINGS = ("Sure! ", "Let's think step by step.\n\n", "**Reasoning:** ", "")
_ENDINGS = (
  "So the answer is {}.",
  "Therefore, the answer is **{}**.",
  "**Answer:** {}",
)
_WRONG = 0.05


def _draw(order: str, purpose: str) -> float:
  """A number in [0, 1), the same whenever the order is asked about."""
  digest = hashlib.sha256(f"{purpose}: {order}".encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64


def _one_of(texts: tuple[str, ...], order: str, purpose: str) -> str:
  return texts[int(_draw(order, purpose) * len(texts))]


def reply(order: str) -> str:
  """What a model would say to an order, in its words."""
  words = order.lower()
  guest = next(guest for guest in menu.GUESTS if guest in words)
  dishes = tuple(sorted(filter(words.count, menu.DISHES), key=words.index))
  answer = menu.answer(guest, dishes)
  if _draw(order, "wrong") < _WRONG:
    answer = "no" if answer == "yes" else "yes"
  reason = menu.reason(guest, dishes)
  opening = _one_of(_OPENINGS, order, "opening")
  ending = _one_of(_ENDINGS, order, "ending").format(answer)
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
