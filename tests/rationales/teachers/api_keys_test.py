"""Keys: from commands, in other headers, renewed once, shown nowhere."""

import asyncio
import json
import shlex
import sys
from typing import Any

import async_server
import pytest

from dss_jax.base.errors import UserError
from dss_jax.rationales.asking import request_loop
from dss_jax.rationales.extraction_plan import AskOptions, Endpoint
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Request, Sampling
from dss_jax.rationales.teachers.openai_endpoint import OpenAIEndpoint


def printing(tmp_path, *keys):
  """A command that prints the keys, one each time that it is run."""
  program = tmp_path / "login.py"
  program.write_text(
    "import pathlib\n"
    f"runs = pathlib.Path({str(tmp_path / 'runs')!r})\n"
    "number = int(runs.read_text()) if runs.exists() else 0\n"
    "runs.write_text(str(number + 1))\n"
    f"keys = {list(keys)!r}\n"
    "print(keys[min(number, len(keys) - 1)])\n"
  )
  return shlex.join([sys.executable, str(program)])


def runs(tmp_path):
  return int((tmp_path / "runs").read_text())


class Door:
  """A server that takes some keys, and others no more after some answers."""

  def __init__(self, header="authorization", delay=0.0):
    self.valid = set()
    self.answers_left = {}
    self.seen = []
    self._header = header
    self._delay = delay

  async def __call__(self, reader, writer):
    while True:
      head = (await reader.readuntil(b"\r\n\r\n")).decode()
      lines = dict(
        line.lower().split(": ", 1)
        for line in head.split("\r\n")[1:]
        if ": " in line
      )
      await reader.readexactly(int(lines["content-length"]))
      key = lines.get(self._header, "").removeprefix("bearer ")
      self.seen.append((key, lines))
      good = key in self.valid and self.answers_left.get(key, 1) > 0
      if key in self.answers_left:
        self.answers_left[key] -= 1
      await asyncio.sleep(self._delay)
      body = {"choices": [{"message": {"content": "yes"}}]}
      if not good:
        body = {"error": {"message": f"expired: {key}"}}
      content = json.dumps(body).encode()
      writer.write(
        f"HTTP/1.1 {200 if good else 401} X\r\n"
        f"Content-Length: {len(content)}\r\n\r\n".encode()
        + content
      )
      await writer.drain()


def ask(tmp_path, door, number, concurrency, **endpoint):
  """(summary, error, attempts) of asking the door `number` requests."""

  async def main():
    requests = (
      Request("m", (("user", f"{i}"),), Sampling()) for i in range(number)
    )
    summary: Any = None
    error: Any = None
    async with async_server.serving(door) as port:
      url = f"http://127.0.0.1:{port}/v1"
      teacher = OpenAIEndpoint(Endpoint("t", "m", base_url=url, **endpoint))
      ledger = Ledger(tmp_path / "ledger.sqlite")
      try:
        summary = await request_loop.ask(
          *(requests, teacher, ledger),
          AskOptions(concurrency=concurrency, backoff_s=30, max_backoff_s=60),
        )
      except UserError as raised:
        error = raised
      attempts = list(ledger.attempts())
      ledger.close()
      await teacher.close()
    return summary, error, attempts

  return asyncio.run(main())


def test_an_expired_token_is_renewed_once_for_all_under_way(tmp_path):
  door = Door(delay=0.02)
  door.valid = {"token-number-one", "token-number-two"}
  door.answers_left["token-number-one"] = 10
  command = printing(tmp_path, "token-number-one", "token-number-two")
  summary, error, attempts = ask(tmp_path, door, 40, 8, api_key_command=command)
  assert error is None
  assert (summary.answered, summary.gave_up) == (40, 0)
  assert runs(tmp_path) == 2
  # Each that came back had the old one, and none of the rest was cancelled.
  assert 1 <= summary.faults["expired_key"] <= 8
  assert set(summary.faults) == {"expired_key"}
  results = {attempt.result for attempt in attempts}
  assert results == {"answered", "expired_key"}
  for attempt in attempts:
    assert "token-number" not in attempt.message


def test_a_renewed_token_that_is_refused_too_ends_the_run(tmp_path):
  command = printing(tmp_path, *(f"token-number-{i}" for i in range(99)))
  summary, error, _ = ask(tmp_path, Door(), 40, 4, api_key_command=command)
  assert summary is None
  assert "HTTP 401" in str(error)
  assert "check the key that api_key_command prints" in str(error)
  assert error.fields == ("Endpoint.api_key_command",)
  assert runs(tmp_path) == 2


def test_a_command_that_prints_the_same_token_again_ends_the_run(tmp_path):
  command = printing(tmp_path, "token-number-one")
  _, error, attempts = ask(tmp_path, Door(), 9, 2, api_key_command=command)
  assert "HTTP 401" in str(error)
  assert len(attempts) <= 4


@pytest.mark.parametrize(
  ("command", "message"),
  [
    ("no-such-program --x", "cannot be run: No such file"),
    (
      f"{sys.executable} -c 'raise SystemExit(\"log in first\")'",
      "log in first",
    ),
    (f"{sys.executable} -c pass", "printed nothing"),
    ("unbalanced '", "cannot be run: No closing quotation"),
    (f"{sys.executable} -c 'print(\"sk-\\x07canary\")'", "no API key has"),
    (f"echo $HOME; {sys.executable}", None),
  ],
)
def test_a_command_that_gives_no_key(monkeypatch, command, message):
  url = "http://127.0.0.1:9/v1"
  endpoint = Endpoint("t", "m", base_url=url, api_key_command=command)
  if message is None:
    # No shell reads it: a semicolon is a part of a word.
    key = OpenAIEndpoint(endpoint)._key.headers()["Authorization"]
    assert key == f"Bearer $HOME; {sys.executable}"
    return
  with pytest.raises(UserError, match=r"api_key_command|the key") as caught:
    OpenAIEndpoint(endpoint)
  assert message in str(caught.value)
  assert "sk-" not in str(caught.value)
  assert caught.value.fields == ("Endpoint.api_key_command",)


def test_headers_are_sent_and_the_key_alone_in_its_own(tmp_path, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
  door = Door(header="api-key")
  door.valid = {"sk-0123456789"}
  headers = (("X-Team", "mine"), ("Authorization", "Basic abc"))
  summary, error, _ = ask(
    tmp_path, door, 1, 1, api_key_header="api-key", headers=headers
  )
  assert error is None
  assert summary.answered == 1
  [(_, sent)] = door.seen
  assert sent["api-key"] == "sk-0123456789"
  assert sent["x-team"] == "mine"
  assert sent["authorization"] == "basic abc"


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("Content-Length", "3", "the client does not write itself"),
    ("X Team", "a", "must be the name of a header"),
    ("", "a", "must be the name of a header"),
    ("X-Team", "a\r\nX-Other: b", "characters that cannot be sent"),
    ("X-Team", "é-secret", "characters that cannot be sent"),
  ],
)
def test_headers_that_cannot_be_sent(name, value, message):
  with pytest.raises(UserError, match=message) as caught:
    Endpoint("t", "m", headers=((name, value),))
  assert "secret" not in str(caught.value)
  assert caught.value.fields == ("Endpoint.headers",)


def test_what_is_written_about_an_endpoint_holds_no_secret():
  endpoint = Endpoint(
    *("t", "m"),
    api_key_env="sk-written-by-mistake",
    api_key_command="login --password=secret",
    headers=(("X-Token", "secret"),),
  )
  described = endpoint.described()
  assert described["headers"] == ["X-Token"]
  assert "secret" not in str(described)
  assert "sk-" not in str(described)
