"""The HTTP interface, without a network: answers, refusals, limits, names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

httpx2 = pytest.importorskip("httpx2")
pydantic = pytest.importorskip("pydantic")
pytest.importorskip("fastapi")

from dss_jax.students.predictions import (  # noqa: E402
  Alternative,
  PredictInput,
)
from dss_jax.students.serving import app as app_lib  # noqa: E402
from dss_jax.students.serving import batching, predict_requests  # noqa: E402
from dss_jax.students.serving.predict_requests import Refused  # noqa: E402
from dss_jax.students.serving.service import Service  # noqa: E402
from dss_jax.students.serving.settings import ServeSettings  # noqa: E402
from dss_jax.students.serving.student_backend import ModelCard  # noqa: E402

TOKEN = "0123456789abcdef"
JSON = {"Content-Type": "application/json"}
CARD = ModelCard(
  "tiny", ("label", "rationale"), ("yes", "no"), 3, {"step": 3}, "x"
)


class Said:
  """A prediction."""

  def __init__(self, text: str, error: str | None = None):
    self.label: str | None = f"{text}!"
    self.label_score = -0.5
    self.label_scores = {"yes": 0.75, "no": float("-inf")}
    self.rationale: str | None = f"because {text}"
    self.rationale_score = None
    self.alternatives = (
      Alternative(-0.5, f"{text}!", f"because {text}"),
      Alternative(float("-inf"), f"{text}?", None),
    )
    self.num_tokens, self.unknown_tokens = 5, text.count("{")
    self.truncated = text == "long"
    self.error = error


class Backend:
  def __init__(self):
    self.inputs: list[str] = []
    self.gate: Callable[[], Any] = lambda: None

  def warm_up(self):
    pass

  def predict(self, inputs, wanted):
    self.inputs += inputs
    self.gate()
    if "poison" in inputs:
      raise ValueError("poisoned with secrets")
    return [Said(t, "too odd" if t == "odd" else None) for t in inputs]


@contextlib.asynccontextmanager
async def _client(
  backend: Any = None, **settings: Any
) -> AsyncIterator[tuple[Any, Service]]:
  ready = asyncio.Event()
  service = Service(
    backend or Backend(),
    CARD,
    ServeSettings(**{"max_wait_ms": 0.0, **settings}),
    on_ready=ready.set,
  )
  application = app_lib.make_app(service)
  service.batcher.start(asyncio.get_running_loop())
  async with asyncio.timeout(20):
    await ready.wait()
    transport = httpx2.ASGITransport(app=application)
    async with httpx2.AsyncClient(
      transport=transport, base_url="http://127.0.0.1:8080"
    ) as client:
      yield client, service
    service.batcher.stop()
    assert await asyncio.to_thread(service.batcher.join, 10)


def _run(test: Callable[[Any, Service], Awaitable[None]], **settings: Any):
  async def run():
    async with _client(**settings) as (client, service):
      await test(client, service)

  asyncio.run(run())


# --- answers -----------------------------------------------------------------


def test_predictions_come_in_order_with_what_was_asked_for():
  async def test(client, service):
    answer = await client.post("/v1/predict", json={"inputs": ["a", "long"]})
    assert answer.status_code == 200
    assert answer.json() == {
      "predictions": [
        {"label": "a!", "truncated": False, "unknown_tokens": 0},
        {"label": "long!", "truncated": True, "unknown_tokens": 0},
      ],
      "model": {"name": "tiny", "step": 3},
    }
    body = {"input": "ü\u2028", "outputs": ["rationale", "label"]}
    answer = await client.post("/v1/predict", json={**body, "scores": True})
    assert answer.json()["predictions"] == [
      {
        "label": "ü\u2028!",
        "label_score": -0.5,
        "label_scores": {"yes": 0.75, "no": None},
        "rationale": "because ü\u2028",
        "rationale_score": None,
        "truncated": False,
        "unknown_tokens": 0,
      }
    ]
    body = {"inputs": ["a"], "outputs": ["label"], "num_best": 2.0}
    answer = await client.post("/v1/predict", json=body)
    assert answer.json()["predictions"] == [
      {
        "label": "a!",
        "alternatives": [
          {"score": -0.5, "label": "a!"},
          {"score": None, "label": "a?"},
        ],
        "truncated": False,
        "unknown_tokens": 0,
      }
    ]
    body = b'\xef\xbb\xbf{"input": "a", "inputs": null, "outputs": ["label"]}'
    answer = await client.post("/v1/predict", content=body, headers=JSON)
    assert answer.json()["predictions"] == [
      {"label": "a!", "truncated": False, "unknown_tokens": 0}
    ]
    reply = (await client.get("/v1/model")).json()
    assert reply["labels"] == ["yes", "no"]
    assert reply["limits"]["items"] == 64

  _run(test)


def test_every_answer_has_an_id_and_the_security_headers():
  async def test(client, service):
    ids = set()
    for path in ("/healthz", "/nothing", "/", "/v1/predict"):
      answer = await client.get(path)
      ids.add(answer.headers["x-request-id"])
      assert answer.headers["x-content-type-options"] == "nosniff"
      assert answer.headers["cache-control"] == "no-store"
      assert "access-control-allow-origin" not in answer.headers
      if answer.status_code != 200:
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert len(ids) == 4
    mine = {"X-Request-Id": "my-id.1"}
    answer = await client.get("/healthz", headers=mine)
    assert answer.headers["x-request-id"] == "my-id.1"
    for bad in ("a b", "x" * 65, "<script>"):
      answer = await client.get("/healthz", headers={"X-Request-Id": bad})
      assert answer.headers["x-request-id"] != bad

  _run(test)


def test_health_follows_the_batcher():
  async def test(client, service):
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert (await client.head("/healthz")).status_code == 200
    for state, alive in (("STARTING", 200), ("DRAINING", 200), ("FAILED", 503)):
      service.batcher._state = batching.State[state]
      answer = await client.get("/healthz")
      assert answer.status_code == 503
      assert answer.json()["status"] == batching.State[state].value
      assert (await client.get("/livez")).status_code == alive
      refused = await client.post("/v1/predict", json={"input": "a"})
      assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    service.batcher._state = batching.State.READY
    service.batcher._busy_since = -1000.0
    assert "at one batch" in (await client.get("/healthz")).json()["status"]
    assert (await client.get("/livez")).status_code == 503

  _run(test)


def test_metrics_count_what_happened():
  async def test(client, service):
    await client.post("/v1/predict", json={"inputs": ["a", "long"]})
    answer = await client.post("/v1/predict", json={"input": "{b{"})
    assert answer.json()["predictions"][0]["unknown_tokens"] == 2
    await client.post("/v1/predict", json={"inputs": []})
    await client.get("/secret/path")
    text = (await client.get("/metrics")).text
    for line in (
      'dss_jax_requests_total{path="/v1/predict",status="200"} 2.0',
      'dss_jax_requests_total{path="/v1/predict",status="422"} 1.0',
      'dss_jax_requests_total{path="other",status="404"} 1.0',
      'dss_jax_inputs_total{outputs="label"} 3.0',
      "dss_jax_tokens_total 15.0",
      "dss_jax_unknown_tokens_total 2.0",
      "dss_jax_truncated_inputs_total 1.0",
      "dss_jax_batch_inputs_sum 3.0",
      "dss_jax_queue_inputs 0.0",
      "dss_jax_ready 1.0",
      'dss_jax_model_info{name="tiny",step="3"} 1.0',
    ):
      assert line in text.splitlines(), line

  _run(test)


def test_the_description_is_what_is_served():
  async def test(client, service):
    openapi = (await client.get("/openapi.json")).json()
    assert set(openapi["paths"]) == {
      *("/v1/predict", "/v1/model", "/healthz", "/livez", "/metrics")
    }
    post = openapi["paths"]["/v1/predict"]["post"]
    assert {"403", "413", "421", "429"} <= set(post["responses"])
    body = post["requestBody"]["content"]["application/json"]
    schemas = openapi["components"]["schemas"]
    assert body["schema"] == {"$ref": "#/components/schemas/PredictRequest"}
    fields = schemas["PredictRequest"]["properties"]
    assert set(fields) == {
      *("inputs", "input", "outputs", "scores", "num_best", "timeout_ms")
    }
    for path, operations in openapi["paths"].items():
      for operation in operations.values():
        for status, reply in operation["responses"].items():
          (kind,) = reply["content"]
          is_text = (path, status) == ("/metrics", "200")
          assert kind == ("text/plain" if is_text else "application/json")
    docs = await client.get("/docs")
    for word in (*fields, *openapi["paths"], "label_scores", "request_id"):
      assert word in docs.text, word
    for page in (docs, await client.get("/")):
      assert "http://" not in page.text.replace("http://www.w3.org", "")
      assert "https://" not in page.text
      policy = page.headers["content-security-policy"]
      assert policy.startswith("default-src 'none'")
      assert "unsafe" not in policy

  _run(test)


# --- refusals ----------------------------------------------------------------

BRACKETS = b"[" * 900_000


def test_wrong_requests_are_refused_in_one_line():
  cases = [
    (b"", 400, "not JSON"),
    (b'{"input": "a"', 400, "not JSON"),
    (b'{"input": "a"} {}', 400, "not JSON"),
    (b'{"input": "\xff"}', 400, "not UTF-8 at byte 11"),
    ('{"input": "a"}'.encode("utf-16"), 400, "not UTF-8 at byte 0"),
    ('{"input": "a"}'.encode("utf-16-le"), 400, "not JSON"),
    (b'{"input": "\\ud800"}', 400, "half of a surrogate pair"),
    (BRACKETS, 400, "nested too deeply"),
    (b'{"input":' * 90_000, 400, "nested too deeply"),
    (b'{"input": ' + b"[" * 80 + b"]" * 80 + b"}", 400, "deeper than 64"),
    (b'{"input": "a", "input": "b"}', 400, "'input' appears twice"),
    (b'{"input": "a", "more": [{"b": {"c": 1, "c": 1}}]}', 400, "'c' appears"),
    (b'{"input": "a", "\\u0069nput": "b"}', 400, "'input' appears twice"),
    (b'{"input": "a", "timeout_ms": NaN}', 400, "NaN is no JSON value"),
    (b'{"input": "a", "timeout_ms": -Infinity}', 400, "-Infinity is no JSON"),
    (b'{"input": "a", "timeout_ms": 1e400}', 400, "1e400 is too large"),
    (b'{"num_best": ' + b"9" * 5000 + b"}", 400, "too many digits"),
    (b"[]", 422, "the body must be a JSON object"),
    (b'"input"', 422, "the body must be a JSON object"),
    (b"{}", 422, "give either inputs"),
    (b'{"input": null}', 422, "give either inputs"),
    (b'{"input": "a", "inputs": ["a"]}', 422, "give either inputs"),
    (b'{"input": 3}', 422, "input: .* it is 3"),
    (b'{"inputs": "a"}', 422, "inputs: "),
    (b'{"inputs": ["a", null]}', 422, r"inputs\[1\]: "),
    (b'{"inputs": []}', 422, "inputs: .*at least 1"),
    (b'{"input": " \\n"}', 422, "no text"),
    (b'{"input": "\\u001c\\u2003"}', 422, "no text"),
    (b'{"input": "a\\u0000b"}', 422, "NUL"),
    (b'{"input": "a", "more": 1}', 422, "more: there is no such field"),
    (b'{"input": "a", "\\u001b[2J\\n": 1}', 422, "no such field"),
    (b'{"input": "a", "outputs": []}', 422, "outputs: "),
    (b'{"input": "a", "outputs": ["why"]}', 422, r"outputs\[0\]: .*'why'"),
    (b'{"input": "a", "scores": 1}', 422, "scores: "),
    (b'{"input": "a", "num_best": 0}', 422, "num_best: .* it is 0"),
    (b'{"input": "a", "num_best": 4}', 422, "equal to 3; it is 4"),
    (b'{"input": "a", "num_best": 1.5}', 422, "num_best: .* it is 1.5"),
    (b'{"input": "a", "num_best": true}', 422, "num_best: "),
    (b'{"input": "a", "num_best": "2"}', 422, "num_best: "),
    (b'{"input": "a", "num_best": ' + b"9" * 4000 + b"}", 422, "num_best: "),
    (b'{"input": "a", "timeout_ms": -1}', 422, "timeout_ms: "),
    (b'{"input": "a", "timeout_ms": 0}', 422, "timeout_ms: "),
    (b'{"input": "a", "timeout_ms": ' + b"9" * 400 + b"}", 422, "timeout_ms: "),
    (b'{"input": "a", "timeout_ms": true}', 422, "timeout_ms: "),
    (
      b'{"input": "a", "timeout_ms": 10001}',
      422,
      "equal to 10000; it is 10001",
    ),
    (b'{"input": "odd"}', 422, "too odd"),
    (b'{"input": "' + b"a" * 10_001 + b'"}', 422, "10,001 characters"),
    (json.dumps({"inputs": ["a"] * 65}).encode(), 422, "65 are more than 64"),
    (b" " * ((1 << 20) + 1), 413, "longer than 1,048,576 bytes"),
  ]

  async def test(client, service):
    for body, status, reason in cases:
      answer = await client.post("/v1/predict", content=body, headers=JSON)
      reply = answer.json()["error"]
      assert answer.status_code == status, body[:99]
      assert re.search(reason, reply), body[:99]
      assert len(reply) < 300
      assert reply.isprintable()

  _run(test)


@hypothesis.given(
  st.text(
    st.sampled_from("a \t\n\0\x1c\x1f\x85\xa0\u2003\u2028\u3000\ufeff\u200b")
  )
  | st.text()
)
def test_texts_are_described_as_the_student_takes_them(text):
  model = predict_requests.request_model(ServeSettings(), CARD)
  properties = model.model_json_schema()["properties"]
  described, _ = properties["input"]["anyOf"]
  assert described["maxLength"] == ServeSettings().max_input_chars
  may = PredictInput(text).problem() is None
  assert (re.search(described["pattern"], text) is not None) == may
  body = json.dumps({"inputs": [text]}).encode()
  if may:
    assert predict_requests.parse(body, model).texts == [text]
  else:
    with pytest.raises(Refused, match=r"\[0\]: there is no text .* or a NUL"):
      predict_requests.parse(body, model)


def test_a_million_wrong_items_cost_no_more_than_the_first():
  """Each would be described, in seconds and hundreds of megabytes."""
  for body, place in (
    (b'{"input": "a", "outputs": [' + b"1," * 500_000 + b"1]}", "outputs"),
    (b'{"inputs": [' + b"1," * 500_000 + b"1]}", "inputs"),
  ):
    model = predict_requests.request_model(ServeSettings(), CARD)
    with pytest.raises(pydantic.ValidationError) as error:
      model.model_validate(json.loads(body))
    assert error.value.error_count() == 1
    with pytest.raises(Refused, match=rf"{place}\[0\]: .* it is 1"):
      predict_requests.parse(body, model)


def test_bodies_are_bounded_whatever_their_headers_say():
  async def test(client, service):
    sent = 0

    async def endless():
      nonlocal sent
      while True:
        sent += 1
        yield b" " * 100_000

    answer = await client.post("/v1/predict", content=endless(), headers=JSON)
    assert (answer.status_code, sent) == (413, 11)
    assert answer.headers["connection"] == "close"
    for length, status in (("1048577", 413), ("-1", 400), ("9" * 400, 400)):
      headers = {**JSON, "Content-Length": length}
      answer = await client.post("/v1/predict", content=b"", headers=headers)
      assert answer.status_code == status

    async def slow():
      yield b"{"
      await asyncio.sleep(30)

    answer = await client.post("/v1/predict", content=slow(), headers=JSON)
    assert answer.status_code == 408

  _run(test, read_timeout_s=0.1)


def test_only_json_is_taken():
  async def test(client, service):
    body = b'{"input": "a"}'
    for kind, status in (
      ("application/json", 200),
      ("Application/JSON; charset=utf-8", 200),
      ('application/json; a=b; charset="UTF-8"; c=d', 200),
      ("application/json; charset=latin-1", 415),
      ("application/json; charset=utf-16", 415),
      ("", 415),
      ("application/json, text/plain", 415),
      ("text/plain", 415),
      ("application/x-www-form-urlencoded", 415),
      ("application/jsonp", 415),
    ):
      answer = await client.post(
        "/v1/predict", content=body, headers={"Content-Type": kind}
      )
      assert answer.status_code == status, kind
    headers = {**JSON, "Content-Encoding": "gzip"}
    answer = await client.post("/v1/predict", content=body, headers=headers)
    assert answer.status_code == 415

  _run(test)


def test_other_paths_and_methods():
  cases = [
    ("GET", "/v1/predict", 405),
    ("PUT", "/v1/predict", 405),
    ("QUERY", "/v1/predict", 405),
    ("OPTIONS", "/healthz", 405),
    ("POST", "/healthz", 405),
    ("GET", "/healthz/", 404),
    ("GET", "/v1/model?a=/../b", 200),
    ("OPTIONS", "/v1/predict", 405),
    ("TRACE", "/healthz", 405),
    ("POST", "/v1/predict/", 404),
    ("POST", "//v1/predict", 404),
    ("POST", "/V1/predict", 404),
    ("GET", "/../../etc/passwd", 404),
    ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
    ("GET", "/page/index.html", 404),
    ("GET", "/%00", 404),
    ("GET", "/redoc", 404),
  ]

  async def test(client, service):
    headers = {"Origin": "http://127.0.0.1:8080"}
    for method, path, status in cases:
      answer = await client.request(method, path, headers=headers)
      assert answer.status_code == status, path
      assert ("error" in answer.json()) == (status != 200)
      assert ("allow" in answer.headers) == (status == 405)

  _run(test)


def test_conditions_are_ignored():
  """Nothing may be kept, so that nothing is unchanged."""

  async def test(client, service):
    for header in ("If-None-Match", "If-Match", "Range", "If-Modified-Since"):
      answer = await client.get("/v1/model", headers={header: "*"})
      assert answer.status_code == 200
      assert answer.json()["outputs"] == ["label", "rationale"]

  _run(test)


def test_a_failure_tells_its_id_and_nothing_of_what_failed(caplog):
  async def test(client, service):
    answer = await client.post(
      "/v1/predict", json={"input": "poison"}, headers={"X-Request-Id": "r-1"}
    )
    assert answer.status_code == 500
    assert answer.json() == {
      "error": "the predictor failed on this input",
      "request_id": "r-1",
    }
    assert "request r-1" in caplog.text
    assert "poisoned with secrets" in caplog.text
    assert (await client.post("/v1/predict", json={"input": "a"})).is_success

  _run(test)


def test_a_full_queue_is_429_and_a_late_answer_504():
  import threading

  gate = threading.Event()
  backend = Backend()
  backend.gate = lambda: gate.wait(20)

  async def test(client, service):
    def ask(text, **fields):
      body = {"inputs": [text] * fields.pop("count", 1), **fields}
      return asyncio.ensure_future(client.post("/v1/predict", json=body))

    first = ask("first")
    while not backend.inputs:
      await asyncio.sleep(0.001)
    waiting = ask("waiting", count=3)
    while service.batcher.waiting < 3:
      await asyncio.sleep(0.001)
    full = await ask("full", count=2)
    assert full.status_code == 429
    assert 1 <= int(full.headers["retry-after"]) <= 60
    late = await ask("late", timeout_ms=20)
    assert late.status_code == 504
    assert service.batcher.waiting == 3
    gate.set()
    assert (await first).status_code == (await waiting).status_code == 200
    assert "late" not in backend.inputs
    assert "full" not in backend.inputs

  _run(test, backend=backend, max_queue=4, max_items=4)


def test_the_work_of_a_client_that_left_is_dropped():
  import threading

  gate = threading.Event()
  backend = Backend()
  backend.gate = lambda: gate.wait(20)

  async def run():
    async with _client(backend) as (client, service):
      first = asyncio.ensure_future(
        client.post("/v1/predict", json={"input": "first"})
      )
      while not backend.inputs:
        await asyncio.sleep(0.001)
      body = b'{"input": "left"}'
      gone = asyncio.Event()
      messages = [{"type": "http.request", "body": body, "more_body": False}]
      sent: list[Any] = []

      async def receive():
        if messages:
          return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

      async def send(message):
        sent.append(message)

      scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "headers": [
          (b"host", b"localhost"),
          (b"content-type", b"application/json"),
        ],
        "state": {},
      }
      left = asyncio.ensure_future(
        app_lib.make_app(service)(scope, receive, send)
      )
      while not service.batcher.waiting:
        await asyncio.sleep(0.001)
      gone.set()
      await left
      assert (service.batcher.waiting, sent) == (0, [])
      gate.set()
      assert (await first).is_success
      assert backend.inputs == ["first"]
      text = (await client.get("/metrics")).text
      assert 'dropped_inputs_total{reason="disconnected"} 1.0' in text
      assert 'path="/v1/predict",status="499"} 1.0' in text

  asyncio.run(run())


# --- whose requests ----------------------------------------------------------


def test_a_name_that_was_rebound_to_the_loopback_is_refused():
  cases = [
    ("127.0.0.1", 200),
    ("127.0.0.1:1", 200),
    ("LOCALHOST:8080", 200),
    ("[::1]:8080", 200),
    ("localhost.", 200),
    ("evil.org", 421),
    ("127.0.0.1.evil.org", 421),
    ("evil.org:127.0.0.1", 421),
    ("user@127.0.0.1", 421),
    ("127.0.0.1, evil.org", 421),
    ("127.0.0.1:80:80", 421),
    ("", 421),
  ]

  async def test(client, service):
    for host, status in cases:
      for path in ("/healthz", "/", "/v1/model"):
        answer = await client.get(path, headers={"Host": host})
        assert answer.status_code == status, host

  _run(test)


def test_pages_of_other_sites_are_refused():
  cases = [
    ("http://127.0.0.1:8080", 200),
    ("http://127.0.0.1:1", 403),
    ("http://evil.org", 403),
    ("https://127.0.0.1.evil.org", 403),
    ("null", 403),
    ("", 403),
    ("http://[", 403),
  ]

  async def test(client, service):
    for origin, status in cases:
      answer = await client.post(
        "/v1/predict", json={"input": "a"}, headers={"Origin": origin}
      )
      assert answer.status_code == status, origin

  _run(test)


def test_tokens():
  cases = [
    (f"Bearer {TOKEN}", 200),
    (f"bearer {TOKEN}", 200),
    (None, 401),
    ("", 401),
    (TOKEN, 401),
    ("Bearer", 401),
    (f"Basic {TOKEN}", 401),
    (f"Bearer {TOKEN}x", 401),
    (f"Bearer {TOKEN[:-1]}", 401),
    ("Bearer \xff\xfe", 401),
  ]

  async def test(client, service):
    for value, status in cases:
      headers = (
        [] if value is None else [(b"Authorization", value.encode("latin-1"))]
      )
      for path in ("/v1/model", "/metrics", "/anything"):
        answer = await client.get(path, headers=headers)
        right = 404 if path == "/anything" else 200
        assert answer.status_code == (right if status == 200 else 401), value
      answer = await client.post(
        "/v1/predict",
        content=b'{"input": "a"}',
        headers=[*headers, (b"Content-Type", b"application/json")],
      )
      assert answer.status_code == status, value
      if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text
    for path in ("/healthz", "/livez", "/", "/docs", "/openapi.json"):
      assert (await client.get(path)).is_success

  _run(test, token=TOKEN, host="0.0.0.0")


def test_the_access_log_names_no_texts(caplog):
  async def test(client, service):
    caplog.set_level("INFO", "dss_jax.students.serving.access")
    await client.post("/v1/predict", json={"input": "my secret"})
    await client.get("/a%0Ab%1B[2J")
    first, second = [r.getMessage() for r in caplog.records]
    assert "POST /v1/predict 200" in first
    assert "GET /a%0Ab%1B%5B2J 404" in second
    assert "secret" not in caplog.text

  _run(test, access_log=True)
