"""Batch files: what is written, and whatever comes back."""

import json
import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import (
  NO_TOKENS,
  Attempt,
  Completion,
  Request,
  Sampling,
  Tokens,
)
from dss_jax.rationales.teachers import batch_requests
from dss_jax.rationales.teachers.batch_requests import BatchLine, request_files
from dss_jax.rationales.teachers.batch_results import ReadReport, read_results


class Memory(Ledger):
  """The ledger, in memory."""

  def __init__(self):
    self.answers: dict[str, Completion] = {}
    self.rejections: dict[str, str] = {}
    self.models: dict[str, str] = {}
    self.charged: dict[str, Tokens] = {}
    self.times: dict[str, float] = {}

  def submitted(self):
    return iter(())

  def start_attempt(self, key, teacher, model="", tokens=NO_TOKENS):
    return Attempt(1, "1", key, teacher, 0.0, None, None, "", model, tokens)

  def end_attempt(self, attempt, result, message="", *, tokens=None):
    assert attempt.key not in self.charged
    assert tokens is not None
    self.charged[attempt.key] = tokens

  def settled(self, keys, **_):
    found = self.answers.keys() | self.rejections.keys()
    return {key: None for key in keys if key in found}

  def add_outcome(self, outcome):
    key = outcome.key
    assert key not in self.answers
    assert outcome.teacher == "batch"
    self.models[key], self.times[key] = outcome.model, outcome.unix
    if outcome.kind == "answered":
      assert outcome.completion is not None
      self.answers[key] = outcome.completion
    else:
      assert outcome.kind == "rejected"
      assert "\n" not in outcome.reason
      self.rejections[key] = outcome.reason


def write_requests(requests, *args, **options):
  """As `batch_requests.write_requests`, of requests to the teacher "t"."""
  lines = (BatchLine("t", each, each.body()) for each in requests)
  return batch_requests.write_requests(lines, *args, **options)


def _request(number: int, model: str = "m", chat: bool = True) -> Request:
  text = f"Q: number {number}?\nA:"
  prompt = (("system", "Think."), ("user", text)) if chat else text
  return Request(model, prompt, Sampling(stop=("\n\n",)), sample=number % 2)


REQUESTS = [_request(i) for i in range(5)]
KEYS = [request.key for request in REQUESTS]


def _line(key: str, text: str = "so it is", **fields) -> str:
  """A line as OpenAI's interface returns it."""
  return json.dumps(
    {
      "id": "batch_req_1",
      "custom_id": key,
      "response": {
        "status_code": 200,
        "request_id": "r",
        "body": {
          "id": "c",
          "object": "chat.completion",
          "created": 1711475054,
          "model": "m-2024-07-18",
          "choices": [
            {
              "index": 0,
              "message": {"role": "assistant", "content": text},
              "finish_reason": "stop",
            }
          ],
          "usage": {"prompt_tokens": 22, "completion_tokens": 2},
        },
      },
      "error": None,
      **fields,
    }
  )


def _read(tmp_path, *lines, answers=None, asked=None):
  path = tmp_path / "results.jsonl"
  path.write_bytes(
    b"\n".join(
      line if isinstance(line, bytes) else line.encode() for line in lines
    )
  )
  answers = answers or Memory()
  return read_results([path], answers, asked=asked), answers


# --- requests ----------------------------------------------------------------


def test_a_line_is_what_the_interface_wants(tmp_path):
  written = write_requests([REQUESTS[1]], tmp_path / "batch")
  (file,) = written.files
  assert file.path.name == "requests-000.jsonl"
  assert (file.model, file.url) == ("m", "/v1/chat/completions")
  content = file.path.read_bytes()
  assert (file.requests, file.bytes) == (1, len(content))
  assert json.loads(content) == {
    "custom_id": KEYS[1],
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": REQUESTS[1].body(),
  }


def test_files_are_bounded_and_for_one_model_each(tmp_path):
  requests = [
    _request(i, model, chat)
    for i in range(5)
    for model, chat in (("a", True), ("b", True), ("a", False))
  ]
  written = write_requests(requests, tmp_path, max_requests=2)
  assert written.requests == 15
  assert len(written.files) == 9
  for file in written.files:
    lines = [json.loads(x) for x in file.path.read_text().splitlines()]
    assert len(lines) == file.requests <= 2
    assert {line["body"]["model"] for line in lines} == {file.model}
    assert {line["url"] for line in lines} == {file.url}
  size = written.files[0].bytes
  written = write_requests(requests, tmp_path / "small", max_bytes=size)
  assert all(file.bytes <= size for file in written.files)
  with pytest.raises(UserError, match=r"has .* bytes, and a batch file may"):
    write_requests(requests, tmp_path / "tiny", max_bytes=100)
  assert list((tmp_path / "tiny").iterdir()) == []


def test_what_is_answered_or_asked_twice_is_left_out(tmp_path):
  answers = Memory()
  answers.answers[KEYS[0]] = Completion("x")
  answers.rejections[KEYS[1]] = "no"
  written = write_requests([*REQUESTS, REQUESTS[3]], tmp_path, answers)
  assert (written.requests, written.answered, written.repeated) == (3, 2, 1)


def test_requests_on_their_way_are_not_overwritten(tmp_path):
  write_requests(REQUESTS, tmp_path)
  with pytest.raises(UserError, match="holds requests already"):
    write_requests(REQUESTS, tmp_path)
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot make the folder"):
    write_requests(REQUESTS, tmp_path / "file" / "batch")

  def interrupted():
    yield REQUESTS[0]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write_requests(interrupted(), tmp_path / "new", max_requests=1)
  assert request_files(tmp_path / "new") == []


def test_odd_prompts_come_back_whole(tmp_path):
  prompt = "NUL \0, \u2028, \x85, 日本 🙂"
  write_requests([Request("m", prompt, Sampling())], tmp_path)
  content = request_files(tmp_path)[0].read_bytes()
  assert content.count(b"\n") == 1
  assert json.loads(content)["body"]["prompt"] == prompt


# --- results -----------------------------------------------------------------


def test_a_refused_setting_is_asked_again_after_the_change(tmp_path):
  """As a live run, which ends at once; the request keeps its key."""
  refusals = [
    {"message": "max_tokens is too large", "param": "max_tokens"},
    {"message": "Unsupported parameter: 'stop' is not supported"},
    {"message": "This model's maximum context length is 4096 tokens"},
    {"message": "filtered", "code": "content_filter", "param": "prompt"},
  ]
  lines = [
    _line(key, response={"status_code": 400, "body": {"error": refusal}})
    for key, refusal in zip(KEYS, refusals)
  ]
  report, answers = _read(tmp_path, *lines)
  assert (report.failed, report.rejected) == (2, 2)
  assert set(answers.rejections) == {KEYS[2], KEYS[3]}
  assert [problem.reason for problem in report.problems] == [
    "400: max_tokens is too large; the field is 'max_tokens': try"
    " max_tokens_field max_completion_tokens, or another max_tokens",
    "400: Unsupported parameter: 'stop' is not supported; the field is 'stop':"
    " change it, or name stop in omit_fields",
  ]


def test_a_byte_order_mark_and_crlf_lose_no_answer(tmp_path):
  path = tmp_path / "results.jsonl"
  lines = "\r\n".join(_line(key) for key in KEYS[:2])
  path.write_bytes(("\ufeff" + lines + "\r\n").encode())
  answers = Memory()
  assert read_results([path], answers).answered == 2
  assert set(answers.answers) == set(KEYS[:2])


def test_results_are_charged_once(tmp_path):
  """Those that a ledger submitted, and those that went out by hand."""
  lines = [_line(KEYS[0]), _line(KEYS[1]), _line(KEYS[1]), _line(KEYS[2])]
  failure = {"code": "batch_expired", "message": "too late"}
  lines.append(_line(KEYS[3], response=None, error=failure))
  path = tmp_path / "results.jsonl"
  path.write_text("\n".join(lines))
  with Ledger(tmp_path / "ledger.sqlite") as ledger:
    for key in (KEYS[0], KEYS[3], KEYS[4]):
      attempt = ledger.start_attempt(key, "batch", "m", Tokens(20, 256))
      ledger.end_attempt(attempt, "submitted")
    for _ in range(2):
      read_results([path], ledger)
      # 22 and 2 for each of the three answers, and the one still under way.
      tokens = {charge.model: charge.tokens for charge in ledger.charges()}
      assert tokens == {
        "m": Tokens(22 + 20, 2 + 256),
        "m-2024-07-18": Tokens(44, 4),
      }
      assert all(charge.is_batch for charge in ledger.charges())


def test_answers(tmp_path):
  write_requests(REQUESTS, tmp_path / "batch")
  report, answers = _read(
    tmp_path, _line(KEYS[0]), _line(KEYS[3], "no"), asked=tmp_path / "batch"
  )
  assert report == ReadReport(answered=2, missing=3)
  assert answers.answers[KEYS[0]] == Completion(
    "so it is", "stop", "m-2024-07-18", 22, 2
  )
  assert answers.models[KEYS[0]] == "m"
  assert answers.times[KEYS[0]] == 1711475054.0
  # The same file again changes nothing.
  report, _ = _read(
    tmp_path,
    _line(KEYS[0]),
    _line(KEYS[3], "no"),
    answers=answers,
    asked=tmp_path / "batch",
  )
  assert report == ReadReport(known=2, missing=3)
  # What is left is written next.
  written = write_requests(REQUESTS, tmp_path / "next", answers)
  assert written.requests == 3


def test_results_of_vllm(tmp_path):
  lines = [
    # vllm run-batch, /v1/completions
    '{"id":"vllm-1","custom_id":"KEY","response":{"status_code":200,'
    '"request_id":"vllm-batch-1","body":{"id":"cmpl-1","object":'
    '"text_completion","created":1730000000,"model":"org/model","choices":'
    '[{"index":0,"text":" because","logprobs":null,"finish_reason":"length",'
    '"stop_reason":null,"prompt_logprobs":[null,{"1":{"logprob":-Infinity}}]}],'
    '"usage":{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1}}},'
    '"error":null}'.replace("KEY", KEYS[0]),
    # a request that it refuses
    '{"id":"vllm-2","custom_id":"KEY","response":{"status_code":400,'
    '"request_id":"vllm-batch-2","body":null},"error":{"object":"error",'
    '"message":"max length\\nis 2048","type":"BadRequestError","param":null,'
    '"code":400}}'.replace("KEY", KEYS[1]),
    '{"id":"vllm-3","custom_id":"KEY","response":null,"error":{"error":'
    '{"message":"busy","code":503}}}'.replace("KEY", KEYS[2]),
  ]
  report, answers = _read(tmp_path, *lines)
  assert (report.answered, report.rejected, report.failed) == (1, 1, 1)
  assert report.missing is None
  assert answers.answers[KEYS[0]] == Completion(
    " because", "length", "org/model", 5, 1
  )
  assert answers.models[KEYS[0]] == "org/model"
  assert answers.rejections == {KEYS[1]: "400: max length is 2048"}
  assert report.problems[0].reason == "503: busy"


def test_errors(tmp_path):
  def failed(key, status, error=None, body=None):
    response = None if status is None else {"status_code": status, "body": body}
    return _line(key, response=response, error=error)

  lines = [
    failed(KEYS[0], 400, body={"error": {"message": "bad prompt"}}),
    failed(KEYS[1], 429, body={"error": {"message": "slow down"}}),
    failed(KEYS[2], 500),
    failed(KEYS[3], None, {"code": "batch_expired", "message": "too late"}),
    failed(KEYS[4], 401, body={"error": {"message": "key?"}}),
  ]
  report, answers = _read(tmp_path, *lines)
  assert (report.rejected, report.failed) == (1, 4)
  assert answers.rejections == {KEYS[0]: "400: bad prompt"}
  assert [problem.reason for problem in report.problems] == [
    "429: slow down",
    "500:",
    "batch_expired: too late",
    "401: key?",
  ]
  # What failed once may be answered in a later file.
  report, _ = _read(tmp_path, lines[1], _line(KEYS[1]), answers=answers)
  assert (report.failed, report.answered) == (1, 1)


def test_duplicates_and_unknown_requests_are_counted(tmp_path):
  write_requests(REQUESTS[:2], tmp_path / "batch")
  report, answers = _read(
    tmp_path,
    _line(KEYS[0]),
    _line(KEYS[0], "another"),
    _line(KEYS[4]),
    _line("request-1"),
    _line("../../etc"),
    asked=tmp_path / "batch",
  )
  assert (report.answered, report.repeated, report.unknown) == (1, 1, 3)
  assert report.missing == 1
  assert set(answers.answers) == {KEYS[0]}
  assert answers.answers[KEYS[0]].text == "so it is"  # the first one stays
  # Without the requests only the form of the key can be checked.
  report, _ = _read(tmp_path, _line(KEYS[4]), _line("request-1"))
  assert (report.answered, report.unknown) == (1, 1)


def test_malformed_lines_have_file_line_and_reason(tmp_path):
  def body(value):
    return _line(KEYS[0], response={"status_code": 200, "body": value})

  lines = [
    "",
    "not json",
    "[1]",
    '{"custom_id": 3}',
    json.dumps({"custom_id": KEYS[0]}),
    b"\xff",
    "[" * 100_000,
    body({"choices": ["x"]}),
    body({"choices": [{"message": {"content": 3}}]}),
    body({"choices": [{"text": "x" * ((1 << 20) + 1)}]}),
    f'{{"custom_id": "{KEYS[0]}", "response": {{"n": {"9" * 5000}}}}}',
  ]
  report, answers = _read(tmp_path, *lines)
  assert report.malformed == 10
  assert answers.answers == {}
  assert [(p.line, p.reason) for p in report.problems] == [
    (2, "not JSON: Expecting value: line 1 column 1 (char 0)"),
    (3, "no result: it has no custom_id"),
    (4, "no result: it has no custom_id"),
    (5, "no result: neither a response nor an error"),
    (6, "not valid UTF-8 (byte 0): save the file as UTF-8"),
    (7, "not usable JSON: nested too deeply"),
    (8, "the answer has no choices"),
    (9, "the answer has no text"),
    (10, "the answer has 1048577 characters, at most 1048576 are allowed"),
    (11, "not JSON: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit"),
  ]  # fmt: skip
  assert str(report.problems[0]).startswith(f"{tmp_path}/results.jsonl:2: ")


def test_answers_without_text_are_answers(tmp_path):
  def message(key, **fields):
    choice = {"message": fields, "finish_reason": "content_filter"}
    body = {"choices": [choice], "usage": {"prompt_tokens": -1}}
    return _line(key, response={"status_code": 200, "body": body})

  report, answers = _read(
    tmp_path,
    message(KEYS[0], content=None, refusal="I cannot"),
    message(KEYS[1], content=[{"type": "text", "text": "a"}, {"text": "b"}]),
  )
  assert report.answered == 2
  assert answers.answers[KEYS[0]] == Completion(
    "", "content_filter", "", None, None, "I cannot"
  )
  assert answers.answers[KEYS[1]].text == "ab"


def test_problems_are_bounded(tmp_path):
  report, _ = _read(tmp_path, *(["bad"] * 500))
  assert report.malformed == 500
  assert len(report.problems) == 20


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(UserError, match=r"cannot read .*no\.jsonl: No such file"):
    read_results([tmp_path / "no.jsonl"], Memory())
  with pytest.raises(UserError, match=r"holds no requests-\*"):
    read_results([], Memory(), asked=tmp_path)
  (tmp_path / "requests-000.jsonl").write_text("{}\n")
  with pytest.raises(UserError, match=r"requests-000.jsonl:1: no request"):
    read_results([], Memory(), asked=tmp_path)


_JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(KEYS),
  lambda inner: (
    st.lists(inner, max_size=2)
    | st.dictionaries(
      st.sampled_from(["custom_id", "response", "error", "body", "status_code", "choices", "message", "content", "text", "usage", "code"]),
      inner,
    )
  ),
  max_leaves=12,
)  # fmt: skip


@hypothesis.settings(
  max_examples=200,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  st.lists(
    st.dictionaries(st.sampled_from(["response", "error", "custom_id"]), _JSON),
    max_size=4,
  )
)
def test_every_line_is_counted_whatever_it_holds(tmp_path, values):
  for value in values[::2]:
    value["custom_id"] = KEYS[0]
  report, answers = _read(tmp_path, *map(json.dumps, values))
  total = (
    report.answered
    + report.rejected
    + report.failed
    + report.known
    + report.repeated
    + report.unknown
    + report.malformed
  )
  assert total == len(values)
  assert len(answers.answers) == report.answered
  assert all("\n" not in str(problem) for problem in report.problems)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
  class Counter(Memory):
    def add_outcome(self, outcome):
      pass

    def submitted(self):
      return iter(())

    def end_attempt(self, *args, **rest):
      pass

    def settled(self, keys, **_):
      return {}

  def peak(count: int) -> int:
    folder = tmp_path / str(count)
    tracemalloc.start()
    write_requests(map(_request, range(count)), folder)
    path = tmp_path / "results.jsonl"
    with path.open("w") as file:
      for i in range(count):
        print(_line(_request(i).key), file=file)
    report = read_results([path], Counter(), asked=folder)
    assert (report.answered, report.missing) == (count, 0)
    bytes_at_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return bytes_at_peak

  peak(100)
  # A request and its result are some 900 bytes.
  assert peak(3000) - peak(1000) < 500_000
