"""The page to try a student by hand, in a real browser."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.slow

_PROGRAM = pathlib.Path(__file__).parents[2] / "support" / "echo_server.py"
_ROOT = _PROGRAM.parent.parent.parent
TOKEN = "0123456789abcdef"
HOSTILE = "</script><img src=x onerror='window.hacked = 1'> it's $(x) \"\\"


@contextlib.contextmanager
def _server(*flags: str) -> Iterator[str]:
  """The address of a server."""
  with subprocess.Popen(
    [sys.executable, str(_PROGRAM), "--port=0", *flags],
    stdout=subprocess.PIPE,
    text=True,
    cwd=_ROOT,
    env={"PYTHONPATH": str(_ROOT), "PATH": ""},
  ) as process:
    try:
      assert process.stdout is not None
      address = process.stdout.readline().split()[-1]
      if "ready" not in process.stdout.readline():
        raise AssertionError("the server did not start")
      yield address
    finally:
      process.kill()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
  with _server() as found:
    yield found


def _type(page, field: str, text: str) -> None:
  page.js(f"byId('{field}').focus(); byId('{field}').select()")
  page.call("Input.insertText", text=text)


def _until(page, expression: str) -> None:
  deadline = time.monotonic() + 30
  while not page.js(expression):
    assert time.monotonic() < deadline, expression
    time.sleep(0.02)


def _shown(page, element: str) -> str | None:
  """The text of an element that can be seen."""
  return page.js(
    f"byId('{element}').offsetParent && byId('{element}').textContent"
  )


def test_an_input_gets_its_label(page, address):
  page.look(1280, 900)
  page.open(f"{address}/")
  _until(page, "byId('name').textContent === 'echo'")
  assert _shown(page, "facts") == "step 3"
  _until(page, "byId('health').textContent === 'ready'")
  assert page.js("byId('input').value") == "A poodle is in a kitchen."

  _type(page, "input", "stressed")
  page.js("byId('send').click()")
  _until(page, "!byId('prediction').hidden")
  assert _shown(page, "label") == "desserts"
  assert _shown(page, "why") is None
  assert re.fullmatch(r"\d+(\.\d)? ms", _shown(page, "time") or "")
  names = "[...document.querySelectorAll('#scores .name')]"
  assert page.js(f"{names}.map((e) => e.textContent)") == [
    *("entailment", "desserts", "neutral")
  ]
  assert page.js("document.querySelectorAll('.fill.best').length") == 1
  assert page.js("document.querySelector('.number').textContent") == "90.0 %"

  # With a rationale, by keyboard.
  page.js("byId('rationale').click(); byId('input').focus()")
  _type(page, "input", "drawer")
  for kind in ("keyDown", "keyUp"):
    page.call("Input.dispatchKeyEvent", type=kind, key="Enter", modifiers=2)
  _until(page, "byId('label').textContent === 'reward'")
  assert _shown(page, "rationale-text") == "because drawer"

  # An error stands where the answer would, and goes with the next one.
  _type(page, "input", "poison")
  page.js("byId('send').click()")
  _until(page, "!byId('error').hidden")
  assert _shown(page, "error") == "500: the predictor failed on this input"
  assert _shown(page, "label") is None
  found = [c for c in page.complaints(address) if "500" not in str(c)]
  assert found == []
  _type(page, "input", "x" * 2000)
  page.js("byId('send').click()")
  _until(page, "byId('error').hidden && !byId('truncated').hidden")


def test_the_command_shown_asks_the_same(page, address):
  page.open(f"{address}/")
  _until(page, "model !== null")
  _type(page, "input", HOSTILE)
  command = page.js("byId('curl').textContent")
  reply = subprocess.run(
    ["bash", "-c", command], capture_output=True, text=True, check=True
  )
  page.js("byId('send').click()")
  _until(page, "!byId('prediction').hidden")
  assert page.js("byId('label').textContent") == HOSTILE[::-1]

  assert json.loads(reply.stdout)["predictions"][0]["label"] == HOSTILE[::-1]


def test_hostile_texts_stay_texts(page, address):
  page.open(f"{address}/")
  _until(page, "model !== null")
  page.js("byId('rationale').click()")
  for text in (HOSTILE, HOSTILE[::-1]):
    _type(page, "input", text)
    page.js("byId('send').click()")
    _until(page, f"byId('rationale-text').textContent.endsWith({text!r})")
  assert page.js("window.hacked") is None
  assert page.js("document.images.length") == 0
  assert page.complaints(address) == []
  page.js(
    "try { document.body.innerHTML += '<b>x</b>' }"
    " catch (e) { window.refused = String(e) }"
  )
  assert "TrustedHTML" in page.js("window.refused")


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_and_can_be_read(
  page, address, tmp_path, size, dark
):
  page.look(*size, dark=dark)
  for path, name in (("/", "try"), ("/docs", "docs")):
    page.open(f"{address}{path}")
    if name == "try":
      _until(page, "model !== null")
      page.js("byId('rationale').click(); byId('send').click()")
      _until(page, "!byId('prediction').hidden")
    assert page.js("document.documentElement.scrollWidth") <= size[0]
    background = page.js("getComputedStyle(document.body).backgroundColor")
    first = int(re.findall(r"\d+", background)[0])
    assert (first < 60) == dark
    page.screenshot(tmp_path / f"{name}.png")
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert page.complaints(address) == []


def test_a_server_with_a_token(page):
  with _server(f"--token={TOKEN}") as address:
    page.open(f"{address}/")
    _until(page, "byId('health').textContent === 'ready'")
    assert _shown(page, "token-field") == "Token"
    for token, reply in (("wrong", "401"), (TOKEN, "")):
      _type(page, "token", token)
      page.js("byId('token').blur()")
      if reply:
        _until(page, "byId('error').textContent.startsWith('401')")
      else:
        _until(page, "byId('name').textContent === 'echo'")
    _type(page, "input", "stressed")
    page.js("byId('send').click()")
    _until(page, "byId('label').textContent === 'desserts'")
    assert TOKEN not in page.js("byId('curl').textContent")
    assert "$DSS_SERVE_TOKEN" in page.js("byId('curl').textContent")
