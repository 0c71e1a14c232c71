"""The endpoint: what is sent, what is believed, and what stays secret."""

import asyncio
import contextlib
import datetime
import email.utils
import json
import logging
import traceback
from typing import Any

import pytest

from dss_jax.base.errors import UserError
from dss_jax.rationales.asking import request_loop
from dss_jax.rationales.extraction_plan import AskOptions, Endpoint
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Request, Sampling
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  TransientError,
  server_responses,
)
from dss_jax.rationales.teachers.openai_endpoint import OpenAIEndpoint

CANARY = "sk-canary-0123456789abcdef"
CHAT = Request("m", (("system", "s"), ("user", "q")), Sampling(stop=("\n",)))
TEXT = Request("m", "Q: q\nA:", Sampling(seed=3), sample=2)


def reply(status, body, *headers, length=None):
  """The bytes of a response."""
  if not isinstance(body, bytes):
    body = json.dumps(body).encode()
  lines = [f"HTTP/1.1 {status} X", f"Content-Length: {length or len(body)}"]
  return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def chat(
  content: Any = "hello", reason: Any = "stop", **message
) -> dict[str, Any]:
  return {
    "model": "m-001",
    "choices": [
      {"message": {"content": content, **message}, "finish_reason": reason}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
  }


def text(content) -> dict[str, Any]:
  return {"choices": [{"text": content, "finish_reason": "stop"}]}


class Loopback:
  """Answers with its bytes, in turn, and keeps what was asked."""

  def __init__(self, *replies):
    self._replies = list(replies)
    self.heads = []
    self.bodies = []
    self.connections = 0
    self._open = set()

  @contextlib.asynccontextmanager
  async def listening(self):
    """Yields the URL; ends when every connection has ended."""
    listener = await asyncio.start_server(self, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    listener.close()
    await asyncio.wait_for(asyncio.gather(*self._open), 10)
    self._open.clear()

  async def __call__(self, reader, writer):
    self.connections += 1
    self._open.add(asyncio.current_task())
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
      while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split()[0])
        self.heads.append(head)
        self.bodies.append(json.loads(await reader.readexactly(length)))
        answer = self._replies[min(len(self.bodies), len(self._replies)) - 1]
        writer.write(answer)
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
      await writer.wait_closed()


def complete(request, *replies, times=1, **options: Any):
  """(completions or errors, the server) of asking so many times."""
  server = Loopback(*replies)

  async def main():
    async with server.listening() as url:
      endpoint = OpenAIEndpoint(
        Endpoint("t", "m", base_url=url, **{"timeout_s": 5, **options})
      )
      found = []
      for i in range(times):
        try:
          found.append(await endpoint.complete(request, f"attempt-{i}"))
        except Exception as error:
          found.append(error)
      await endpoint.close()
    return found

  return asyncio.run(main()), server


def one(request, answer, **options) -> Any:
  [result], _ = complete(request, answer, **options)
  return result


def error_of(status, body, *headers, request=CHAT) -> Any:
  error = one(request, reply(status, body, *headers))
  assert isinstance(error, Exception), error
  assert "\n" not in str(error)
  assert len(str(error)) < 700
  return error


# -- what is sent


def test_a_chat_and_its_answer():
  [answer], server = complete(CHAT, reply(200, chat()))
  assert (answer.text, answer.finish_reason) == ("hello", "stop")
  assert answer.model == "m-001"
  assert (answer.prompt_tokens, answer.completion_tokens) == (5, 2)
  assert answer.refusal is None
  assert server.bodies == [CHAT.body()]
  [head] = server.heads
  assert head.startswith("post /v1/chat/completions http/1.1")
  assert "x-client-request-id: attempt-0" in head
  assert "accept-encoding: identity" in head


def test_a_completion_and_its_answer():
  body = text(" it is so.")
  body["choices"][0]["logprobs"] = {"tokens": ["a"], "token_logprobs": [None]}
  [answer], server = complete(TEXT, reply(200, body))
  assert answer.text == " it is so."
  assert (answer.prompt_tokens, answer.completion_tokens) == (None, None)
  assert server.bodies == [TEXT.body()]
  assert server.bodies[0]["seed"] == 5
  assert server.heads[0].startswith("post /v1/completions http/1.1")


def test_connections_are_kept():
  _, server = complete(CHAT, reply(200, chat()), times=5)
  assert server.connections == 1


def test_fields_can_be_renamed_and_left_out():
  _, server = complete(
    TEXT,
    reply(200, text("x")),
    max_tokens_field="max_completion_tokens",
    omit_fields=["seed", "temperature"],
  )
  assert server.bodies[0] == {
    "model": "m",
    "prompt": "Q: q\nA:",
    "max_completion_tokens": 256,
  }


def test_further_fields_and_version_are_sent():
  request = Request("m", "q", Sampling(extra={"top_k": 5, "echo": False}))
  _, server = complete(request, reply(200, text("x")), api_version="2025-01")
  assert server.bodies[0]["top_k"] == 5
  assert "post /v1/completions?api-version=2025-01 " in server.heads[0]


# -- what is believed


@pytest.mark.parametrize(
  ("body", "expected"),
  [
    (chat("x", None), ("x", "", None)),
    (chat(None, refusal="I cannot"), ("", "stop", "I cannot")),
    (chat("", "content_filter"), ("", "content_filter", None)),
    (
      chat(
        [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]
      ),
      ("x", "stop", None),
    ),
    (chat("half \ud800"), ("half \ud800", "stop", None)),
  ],
)
def test_unusual_answers(body, expected):
  answer = one(CHAT, reply(200, body))
  assert (answer.text, answer.finish_reason, answer.refusal) == expected


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    ({"reasoning_content": "3+5 is 8"}, "3+5 is 8"),
    ({"reasoning": "3+5 is 8", "reasoning_content": None}, "3+5 is 8"),
    ({"reasoning_content": ""}, None),
    ({"reasoning": {"effort": "low"}}, None),
    ({}, None),
  ],
)
def test_what_a_model_thought_is_kept(message, expected):
  answer = one(CHAT, reply(200, chat(None, "length", **message)))
  assert (answer.text, answer.reasoning) == ("", expected)


@pytest.mark.parametrize(
  ("total", "written"), [(57, 7), (157, 107), (0, 7), (None, 7), ("x", 7)]
)
def test_thoughts_that_only_the_total_counts_are_written_tokens(total, written):
  usage = {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": total}
  answer = one(CHAT, reply(200, chat() | {"usage": usage}))
  assert answer.completion_tokens == written


def test_cached_tokens_are_read():
  usage = {"prompt_tokens": 50, "prompt_tokens_details": {"cached_tokens": 32}}
  answer = one(CHAT, reply(200, chat() | {"usage": usage}))
  assert (answer.prompt_tokens, answer.cached_tokens) == (50, 32)


@pytest.mark.parametrize(
  "usage",
  [None, 3, {}, *({"prompt_tokens": n} for n in ("5", -1, True, 1e3, 2**70))],
)
def test_unusual_usage_is_unknown(usage):
  answer = one(CHAT, reply(200, chat() | {"usage": usage}))
  assert answer.prompt_tokens is None


@pytest.mark.parametrize(
  "body",
  [
    *(b"<html>", b"", b"\xff\xfe", b"[" * 100_000, b"3", b"null", b"[]"),
    json.dumps(chat()).encode()[:-20],
    {},
    *({"choices": value} for value in ([], [3], [{}], {"0": 1})),
    {"choices": [{"message": {"content": 3}}]},
  ],
)
def test_bad_answers_are_transient(body):
  error = error_of(200, body)
  assert isinstance(error, TransientError)
  assert error.kind == "bad_response"


def test_a_completion_without_text_is_transient():
  assert error_of(200, chat(), request=TEXT).kind == "bad_response"


def test_an_error_wrapped_in_success_is_transient():
  error = error_of(200, {"error": {"message": "busy", "code": 429}})
  assert (error.kind, str(error)) == ("rate_limited", "busy")
  assert error_of(200, {"error": "x"}).kind == "server_error"


@pytest.mark.parametrize("status", [200, 500])
def test_no_more_than_the_bound_is_read(monkeypatch, status):
  monkeypatch.setattr(server_responses, "MAX_RESPONSE_BYTES", 2**16)
  error = error_of(status, b" " * 2**20)
  assert error.kind == "bad_response"
  assert "65536" in str(error)


def test_compressed_answers_are_refused():
  error = error_of(200, b"x" * 100, "Content-Encoding: gzip")
  assert error.kind == "bad_response"


def test_an_answer_sent_twice_is_not_the_next_answer():
  first, second = reply(200, chat("first")), reply(200, chat("second"))
  answers, server = complete(CHAT, first + first, second, times=2)
  assert [answer.text for answer in answers] == ["first", "second"]
  assert server.connections == 2


def test_half_an_answer_is_no_answer():
  error = one(CHAT, reply(200, chat(), length=10_000), timeout_s=0.3)
  assert error.kind == "timeout"
  assert str(error) == "no answer in 0.3 s"


def test_no_server():
  async def main():
    endpoint = OpenAIEndpoint(
      Endpoint("t", "m", base_url="http://127.0.0.1:9/v1")
    )
    with pytest.raises(TransientError) as caught:
      await endpoint.complete(CHAT, "a")
    assert caught.value.kind == "connection"
    await endpoint.close()

  asyncio.run(main())


def test_an_endpoint_serves_several_event_loops():
  """As in a notebook, or in rounds that each run their own."""
  server = Loopback(reply(200, chat()))
  endpoint = None

  async def main():
    nonlocal endpoint
    async with server.listening() as url:
      if endpoint is None:
        endpoint = OpenAIEndpoint(Endpoint("t", "m", base_url=url))
      endpoint.base_url = url
      assert (await endpoint.complete(CHAT, "a")).text == "hello"
      await endpoint.close()

  asyncio.run(main())
  asyncio.run(main())


# -- what statuses mean


@pytest.mark.parametrize(
  ("status", "body", "kind"),
  [
    (429, {"error": {"message": "slow down"}}, "rate_limited"),
    (500, {"error": {"message": "oops"}}, "server_error"),
    (502, b"<html>Bad gateway</html>", "server_error"),
    # The model behind may have worked.
    (504, b"", "timeout"),
    (524, b"", "timeout"),
    (529, b"", "server_error"),
    (408, b"", "timeout"),
    (409, b"", "server_error"),
  ],
)
def test_transient_statuses(status, body, kind):
  error = error_of(status, body)
  assert isinstance(error, TransientError)
  assert error.kind == kind
  assert error.retry_after is None
  assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize(
  ("header", "seconds"),
  [
    ("Retry-After: 7", 7),
    ("Retry-After: 0.5", 0.5),
    ("retry-after-ms: 250", 0.25),
    ("Retry-After: soon", None),
    ("Retry-After: 1 2", None),
    ("Retry-After: -3", None),
    ("Retry-After: 1e400", None),
    ("Retry-After: Mon, 32 Foo 2020 99:99:99 GMT", None),
    ("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", 0),
  ],
)
def test_retry_after(header, seconds):
  assert error_of(429, b"", header).retry_after == seconds


def test_retry_after_as_a_date():
  date = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
  header = f"Retry-After: {email.utils.format_datetime(date, usegmt=True)}"
  assert 50 < error_of(503, b"", header).retry_after <= 60


@pytest.mark.parametrize(
  ("status", "body", "text", "fields"),
  [
    (
      401,
      {"error": {"message": "bad key"}},
      "OPENAI_API_KEY",
      "Endpoint.api_key_env",
    ),
    (403, b"", "OPENAI_API_KEY", "Endpoint.api_key_env"),
    (
      404,
      {"error": {"message": "model 'm' does not exist"}},
      "check base_url and model",
      ("Endpoint.base_url", "Endpoint.model"),
    ),
    (402, {"error": {"message": "pay"}}, "no credit left", ()),
    (
      429,
      {"error": {"message": "quota", "code": "insufficient_quota"}},
      "no credit left",
      (),
    ),
    (
      405,
      b"",
      "check base_url and model",
      ("Endpoint.base_url", "Endpoint.model"),
    ),
  ],
)
def test_fatal_statuses(status, body, text, fields):
  error = error_of(status, body)
  assert isinstance(error, FatalError)
  assert text in str(error)
  assert error.fields == fields


FIELDS = Request("m", (("user", "q"),), Sampling(stop=("\n",), seed=1))


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (
      {
        "error": {
          "message": "Unsupported parameter: 'max_tokens' is not supported"
          " with this model. Use 'max_completion_tokens' instead.",
          "param": "max_tokens",
          "code": "unsupported_parameter",
        }
      },
      "try max_tokens_field max_completion_tokens",
    ),
    (
      {"error": {"message": "Unsupported value", "param": "temperature"}},
      "name temperature in omit_fields",
    ),
    (
      {"error": {"message": 'Unknown name "seed": Cannot find field.'}},
      "name seed in omit_fields",
    ),
    (
      {"detail": [{"type": "extra_forbidden", "loc": ["body", "stop"]}]},
      "name stop in omit_fields",
    ),
    (
      {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed')}]"},
      "name seed in omit_fields",
    ),
  ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_field_that_the_endpoint_does_not_take_is_fatal(
  status, body, message
):
  error = error_of(status, body, request=FIELDS)
  assert isinstance(error, FatalError)
  assert message in str(error)
  [name] = [n for n in ("max_tokens_field", "omit_fields") if n in message]
  assert f"Endpoint.{name}" in error.fields


@pytest.mark.parametrize(
  ("status", "message"),
  [
    (400, "This model's maximum context length is 4097 tokens"),
    (
      400,
      "'max_tokens' or 'max_completion_tokens' is too large: 256. This model's"
      " maximum context length is 2048 tokens",
    ),
    (400, "The response was filtered"),
    (400, "Your prompt is not allowed to ask when to stopover"),
    (413, "too large"),
  ],
)
def test_a_refused_prompt_is_rejected(status, message):
  error = error_of(status, {"error": {"message": message}}, request=FIELDS)
  assert isinstance(error, RejectedError)
  assert message[:40] in str(error)


def test_half_a_surrogate_pair_in_a_prompt_is_rejected():
  assert isinstance(
    one(Request("m", "\ud800", Sampling()), reply(200, text("x"))),
    RejectedError,
  )


# -- keys


@pytest.fixture
def key(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", CANARY)
  return CANARY


def test_the_key_is_sent_and_found_nowhere_else(key, tmp_path, caplog):
  """Whatever a server does with it, and with every logger turned up."""
  caplog.set_level(logging.DEBUG)
  echo = {"error": {"message": f"no such key: {key}", "param": key}}
  replies = [
    reply(500, f"Authorization: Bearer {key}".encode()),
    reply(429, echo),
    reply(200, f"<p>{key}</p>".encode()),
    reply(200, {"error": {"message": key}}),
    # Cut where the key begins.
    reply(500, b"x" * 290 + key.encode()),
    reply(200, chat(f"your key is {key}", key, refusal=key) | {"model": key}),
    reply(400, echo),
    reply(401, echo),
  ]
  server = Loopback(*replies)
  path = tmp_path / "ledger.sqlite"
  said = []

  class Said:
    def update(self, step, text):
      said.append(text)

    def say(self, text):
      said.append(text)

  async def main():
    async with server.listening() as url:
      endpoint = OpenAIEndpoint(Endpoint("t", "m", base_url=url))
      said.append(repr(endpoint) + str(vars(endpoint)))
      options = AskOptions(
        concurrency=1, backoff_s=0.001, max_backoff_s=0.002, max_attempts=20
      )
      with Ledger(path) as ledger:
        with pytest.raises(UserError) as caught:
          await request_loop.ask(
            (Request("m", (("user", f"{i}"),), Sampling()) for i in range(9)),
            endpoint,
            ledger,
            options,
            progress=Said(),
          )
        said.append("".join(traceback.format_exception(caught.value)))
        said.append(str(list(ledger.outcomes())))
        said.append(str(list(ledger.attempts())))
      await endpoint.close()

  asyncio.run(main())
  assert len(server.heads) == len(replies)
  assert all(f"authorization: bearer {key}" in head for head in server.heads)
  everything = "\n".join([*said, caplog.text])
  assert "[API key]" in everything
  assert key not in everything
  assert key[:12] not in everything
  for file in tmp_path.iterdir():
    assert key.encode() not in file.read_bytes()


def test_exceptions_hold_no_request(key):
  error = error_of(401, b"")
  assert error.__cause__ is None
  assert error.__suppress_context__


def test_a_key_is_needed_but_on_this_machine(monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  monkeypatch.delenv("MY_KEY", raising=False)
  for url in (None, "https://example.org/v1"):
    with pytest.raises(UserError, match="MY_KEY holds no API key"):
      OpenAIEndpoint(Endpoint("t", "m", base_url=url, api_key_env="MY_KEY"))
  for url in ("http://localhost:1/v1", "http://[::1]:1/v1"):
    OpenAIEndpoint(Endpoint("t", "m", base_url=url))


def test_a_broken_key_is_not_shown(monkeypatch):
  for wrong in ("sk-canary\nx", "sk-canary-é"):
    monkeypatch.setenv("OPENAI_API_KEY", wrong)
    with pytest.raises(UserError, match="no API key has") as caught:
      OpenAIEndpoint(Endpoint("t", "m"))
    assert "sk-canary" not in str(caught.value)


@pytest.mark.parametrize(
  "url",
  [
    *("127.0.0.1:8000/v1", "ftp://x/v1", "http://", "http://x:port/v1"),
    *("", "http://[::1/v1"),
  ],
)
def test_unusable_urls(url):
  with pytest.raises(UserError, match="base_url is no URL"):
    OpenAIEndpoint(Endpoint("t", "m", base_url=url))


@pytest.mark.parametrize(
  "url",
  [f"https://user:{CANARY}@example.org/v1", f"https://x.org/v1?key={CANARY}"],
)
def test_secrets_in_urls_are_refused_and_not_shown(url):
  with pytest.raises(UserError, match="base_url for") as caught:
    OpenAIEndpoint(Endpoint("t", "m", base_url=url))
  assert CANARY not in str(caught.value)


def test_wrong_options():
  url = "http://127.0.0.1:1/v1"
  with pytest.raises(UserError, match="max_completion_tokens"):
    OpenAIEndpoint(Endpoint("t", "m", base_url=url, max_tokens_field="tokens"))
  with pytest.raises(UserError, match="messages"):
    OpenAIEndpoint(Endpoint("t", "m", base_url=url, omit_fields=("messages",)))


@pytest.mark.parametrize(
  ("value", "seconds"),
  [("1\x1e", 1), (" 7 ", 7), ("\u0663", None), ("1.\x1f5", None), (" ", None)],
)
def test_retry_after_with_what_no_library_lets_through(value, seconds):
  assert server_responses.retry_after({"retry-after": value}) == seconds
