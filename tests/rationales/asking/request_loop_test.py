"""Asking: every request ends once, whatever the server and the machine do."""

import asyncio
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from dss_jax.base.errors import UserError
from dss_jax.rationales.asking import pacing, request_loop
from dss_jax.rationales.extraction_plan import AskOptions
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Price, Prices
from dss_jax.rationales.teacher_requests import (
  Completion,
  Request,
  Sampling,
  Tokens,
)
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  TransientError,
)

SERVER = pathlib.Path(__file__).parents[2] / "support" / "misbehaving_server.py"


def request(i, sample=0):
  return Request("m", f"question {i}", Sampling(max_tokens=10), sample)


def quick(**changes: Any):
  options: dict[str, Any] = {"backoff_s": 0.01, "max_backoff_s": 0.05}
  return AskOptions(**(options | changes))


class Scripted:
  """A teacher that does what a function of (request, times asked) says."""

  name, model, weight = "scripted", "m", 1.0

  def __init__(self, script=None, delay=0.0):
    self._script = script or (lambda request, times: None)
    self._delay = delay
    self.asked = collections.Counter()
    self.under_way = 0
    self.most_under_way = 0

  async def complete(self, request, attempt_id):
    self.asked[request.prompt] += 1
    self.under_way += 1
    self.most_under_way = max(self.most_under_way, self.under_way)
    try:
      await asyncio.sleep(self._delay)
      result = self._script(request, self.asked[request.prompt])
    finally:
      self.under_way -= 1
    if isinstance(result, Exception):
      raise result
    return result or Completion(
      f"answer to {request.prompt}", prompt_tokens=5, completion_tokens=2
    )

  async def close(self):
    pass


class Said:
  """A progress that remembers."""

  def __init__(self):
    self.updates = []
    self.lines = []

  def update(self, step, text):
    self.updates.append((step, text))

  def say(self, text):
    self.lines.append(text)


@pytest.fixture
def ledger(tmp_path):
  with Ledger(tmp_path / "ledger.sqlite") as opened:
    yield opened


def outcome_of(ledger, i) -> Any:
  """The outcome of request i, or None."""
  return ledger.outcome(request(i).key)


def results_of(ledger):
  """Result -> number of attempts; None while they are under way."""
  return collections.Counter(attempt.result for attempt in ledger.attempts())


def ask(requests, teacher, ledger, options=None, **rest):
  return asyncio.run(
    request_loop.ask(requests, teacher, ledger, options or quick(), **rest)
  )


# -- the ordinary run


def test_answers_are_in_the_ledger_under_their_keys(ledger):
  teacher = Scripted()
  summary = ask((request(i) for i in range(100)), teacher, ledger)
  assert (summary.requests, summary.answered) == (100, 100)
  assert (summary.attempts, summary.retries) == (100, 0)
  assert (summary.prompt_tokens, summary.completion_tokens) == (500, 200)
  assert not summary.stopped
  for i in range(100):
    outcome = outcome_of(ledger, i)
    assert outcome.completion.text == f"answer to question {i}"
    assert outcome.teacher == "scripted"
    assert outcome.seconds >= 0


def test_what_is_answered_is_not_asked_again(ledger):
  ask([request(i) for i in range(5)], Scripted(), ledger)
  teacher = Scripted()
  summary = ask([request(i) for i in range(8)], teacher, ledger)
  assert (summary.already, summary.answered) == (5, 3)
  assert set(teacher.asked) == {"question 5", "question 6", "question 7"}


def test_equal_requests_are_asked_once(ledger):
  # Side by side, a chunk apart, and after the first one has ended.
  stream = [0, 0, *range(1, 200), 0, 7]
  teacher = Scripted()
  summary = ask((request(i) for i in stream), teacher, ledger)
  assert summary.answered == 200
  assert summary.duplicates == 3
  assert max(teacher.asked.values()) == 1


def test_samples_of_a_prompt_are_asked_separately(ledger):
  teacher = Scripted()
  ask([request(0, sample) for sample in range(3)], teacher, ledger)
  assert teacher.asked == {"question 0": 3}


def test_concurrency_is_used_and_never_exceeded(ledger):
  teacher = Scripted(delay=0.002)
  ask(map(request, range(100)), teacher, ledger, quick(concurrency=5))
  assert teacher.most_under_way == 5


def test_requests_are_read_only_as_they_are_asked(ledger):
  read = []
  teacher = Scripted(lambda r, n: FatalError("no") if len(read) > 900 else None)

  def stream():
    for i in range(10_000):
      read.append(i)
      # At most what is under way and two chunks beyond what was asked.
      assert i <= sum(teacher.asked.values()) + 8 + 128
      yield request(i)

  with pytest.raises(UserError, match=r"^no$"):
    ask(stream(), teacher, ledger)
  assert len(read) < 2000


def test_an_attempt_is_on_disk_before_it_is_sent(ledger):
  seen = []

  class Peeking(Scripted):
    async def complete(self, request, attempt_id):
      with Ledger(ledger.path, read_only=True) as reader:
        seen.append(attempt_id in {a.id for a in reader.attempts()})
      return await super().complete(request, attempt_id)

  ask(map(request, range(5)), Peeking(), ledger)
  assert seen == [True] * 5


def test_a_broken_iterable_loses_no_answers(ledger):
  def stream():
    yield from map(request, range(3))
    raise RuntimeError("bad record")

  with pytest.raises(RuntimeError, match="bad record"):
    ask(stream(), Scripted(), ledger)
  assert len(ledger.get_many(request(i).key for i in range(3))) in (0, 3)
  assert None not in results_of(ledger)


def test_a_ledger_that_cannot_be_written_stops_the_run(ledger, monkeypatch):
  teacher, flush = Scripted(), ledger.flush

  def flush_until_full():
    if sum(teacher.asked.values()) >= 10:
      raise UserError("no space left")
    flush()

  monkeypatch.setattr(ledger, "flush", flush_until_full)
  with pytest.raises(UserError, match=r"^no space left$"):
    ask(map(request, range(500)), teacher, ledger, quick(concurrency=4))
  monkeypatch.undo()
  # Nothing was sent whose attempt could not be noted; no answer is lost.
  asked = sum(teacher.asked.values())
  assert 10 <= asked <= 13
  assert results_of(ledger)["answered"] == asked


# -- faults


def test_transient_faults_are_retried_and_counted(ledger):
  def script(request, times):
    return TransientError("server_error", "oops") if times <= 2 else None

  teacher = Scripted(script)
  options = quick(concurrency=2)
  summary = ask(map(request, range(4)), teacher, ledger, options)
  assert (summary.answered, summary.retries) == (4, 8)
  assert summary.faults == {"server_error": 8}
  assert results_of(ledger) == {"answered": 4, "server_error": 8}


def test_a_request_that_fails_too_often_is_given_up(ledger):
  def script(request, times):
    if request.prompt.endswith("3"):
      return TransientError("bad_response", "no choices")
    return None

  teacher = Scripted(script)
  options = quick(max_attempts=3)
  summary = ask(map(request, range(6)), teacher, ledger, options)
  assert (summary.answered, summary.gave_up) == (5, 1)
  assert teacher.asked["question 3"] == 3
  outcome = outcome_of(ledger, 3)
  assert outcome.kind == "gave_up"
  assert outcome.completion is None
  assert outcome.reason == "bad_response after 3 attempts: no choices"
  # Not asked again, unless that is wanted.
  assert ask([request(3)], Scripted(), ledger).already == 1


def test_failures_of_earlier_runs_are_asked_again_on_request(tmp_path):
  path = tmp_path / "ledger.sqlite"
  with Ledger(path) as ledger:
    reject = Scripted(lambda r, n: RejectedError("too long"))
    ask([request(0)], reject, ledger)
    again = quick(retry_failed=True)
    # The run that saw it fail does not ask it again.
    assert ask([request(0)], Scripted(), ledger, again).answered == 0
  with Ledger(path) as ledger:
    assert ask([request(0)], Scripted(), ledger, again).answered == 1
    assert outcome_of(ledger, 0).kind == "answered"


def test_a_rejected_request_stops_nothing(ledger):
  def script(request, times):
    return RejectedError("too long") if request.prompt.endswith("1") else None

  summary = ask(map(request, range(5)), Scripted(script), ledger)
  assert (summary.answered, summary.rejected) == (4, 1)
  assert outcome_of(ledger, 1).reason == "too long"


def test_nothing_but_rejections_stops_the_run(ledger):
  teacher = Scripted(lambda r, n: RejectedError("no chat template"))
  options = quick(stop_after_rejections=20, concurrency=2)
  with pytest.raises(
    UserError, match=r"first 20 .* no chat template"
  ) as caught:
    ask(map(request, range(500)), teacher, ledger, options)
  assert "\n" not in str(caught.value)
  assert sum(teacher.asked.values()) <= 22
  # They were not the requests' own fault, and are not final.
  assert not list(ledger.outcomes())
  assert ask(map(request, range(25)), Scripted(), ledger).answered == 25


def test_rejections_before_the_first_answer_are_noted_with_it(ledger):
  def script(request, times):
    return RejectedError("too long") if request.prompt != "question 9" else None

  options = quick(stop_after_rejections=20, concurrency=1)
  summary = ask(map(request, range(12)), Scripted(script), ledger, options)
  assert (summary.answered, summary.rejected) == (1, 11)
  kinds = [outcome_of(ledger, i).kind for i in range(12)]
  assert kinds == ["rejected"] * 9 + ["answered"] + ["rejected"] * 2
  assert ask(map(request, range(12)), Scripted(), ledger).already == 12


def test_requests_that_always_fail_are_given_up_by_probes_too(ledger):
  """With nothing else left, the breaker opens and only probes are sent."""
  teacher = Scripted(lambda r, n: TransientError("bad_response", "no choices"))
  options = quick(concurrency=2, give_up_after_s=60)
  summary = ask(map(request, range(3)), teacher, ledger, options)
  assert (summary.gave_up, summary.stopped) == (3, False)
  assert set(teacher.asked.values()) == {8}


def test_an_expired_key_costs_no_patience(ledger):
  """All that were under way with it come back at once, and are asked again."""
  expired = TransientError("expired_key", "HTTP 401", retry_after=0.0)
  teacher = Scripted(lambda r, n: expired if n == 1 else None)
  options = quick(concurrency=16, max_backoff_s=60, backoff_s=30)
  summary = ask(map(request, range(16)), teacher, ledger, options)
  assert (summary.answered, summary.faults) == (16, {"expired_key": 16})
  assert summary.seconds < 20


def test_a_fatal_error_stops_at_once(ledger):
  def script(request, times):
    if request.prompt == "question 20":
      return FatalError("the key is not valid")
    return None

  teacher = Scripted(script, delay=0.002)
  with pytest.raises(UserError, match=r"^the key is not valid$"):
    ask(map(request, range(500)), teacher, ledger, quick(concurrency=4))
  asked = sum(teacher.asked.values())
  assert asked <= 28
  # What was under way at that time is kept.
  assert results_of(ledger) == {"answered": asked - 1, "fatal": 1}
  assert outcome_of(ledger, 20) is None


def test_a_teacher_that_needs_another_option_stops_at_once(ledger):
  error = UserError("device is 'x'; it must be cpu", fields="device")
  teacher = Scripted(lambda request, times: error)
  with pytest.raises(UserError, match=r"^device is 'x'; it must be cpu$") as e:
    ask(map(request, range(100)), teacher, ledger, quick(concurrency=4))
  assert e.value.fields == ("device",)
  assert sum(teacher.asked.values()) <= 8


def test_an_answer_that_takes_too_long_is_a_fault(ledger):
  teacher = Scripted(delay=30)
  options = quick(timeout_s=0.02, max_attempts=2)
  summary = ask([request(0)], teacher, ledger, options)
  assert summary.gave_up == 1
  assert summary.faults == {"timeout": 2}


def test_an_unexpected_exception_is_a_fault_of_its_request(ledger):
  def script(request, times):
    return KeyError("sk-secret") if request.prompt.endswith("0") else None

  options = quick(max_attempts=2)
  summary = ask(map(request, range(3)), Scripted(script), ledger, options)
  assert (summary.answered, summary.gave_up) == (2, 1)
  reason = outcome_of(ledger, 0).reason
  assert "KeyError" in reason
  assert "sk-secret" not in reason


# -- pacing


def test_being_asked_too_often_pauses_everyone(ledger, monkeypatch):
  def script(request, times):
    if request.prompt == "question 4" and times == 1:
      return TransientError("rate_limited", "slow down", retry_after=0.3)
    return None

  pauses = []
  monkeypatch.setattr(
    pacing.Pace, "pause", lambda self, seconds: pauses.append(seconds)
  )
  teacher = Scripted(script, delay=0.001)
  ask(map(request, range(40)), teacher, ledger, quick(concurrency=4))
  assert len(pauses) == 1
  assert 0.3 <= pauses[0] <= 0.33
  assert teacher.asked["question 4"] == 2


def test_being_asked_too_often_is_no_failure_of_the_request(ledger):
  def script(request, times):
    return TransientError("rate_limited", "x", 0.0) if times < 9 else None

  options = quick(max_attempts=2, concurrency=2)
  summary = ask(map(request, range(3)), Scripted(script), ledger, options)
  assert summary.answered == 3


def test_an_outage_burns_no_attempts(ledger):
  """While the server is away only probes are sent, and nothing is given up."""
  start = time.monotonic()

  def script(request, times):
    if time.monotonic() - start < 1.0:
      return TransientError("connection", "refused")
    return None

  teacher = Scripted(script)
  options = quick(concurrency=4, max_attempts=8, max_backoff_s=0.1)
  summary = ask(map(request, range(30)), teacher, ledger, options)
  assert (summary.answered, summary.gave_up) == (30, 0)
  # Ten open the breaker; then a probe each 0.04, 0.08, 0.1, 0.1 ... seconds.
  assert summary.faults["connection"] <= 10 + 4 + 14


def test_a_server_that_stays_away_ends_the_run(ledger):
  teacher = Scripted(lambda r, n: TransientError("connection", "refused"))
  options = quick(give_up_after_s=0.3)
  summary = ask(map(request, range(30)), teacher, ledger, options)
  assert summary.stopped
  assert "no answer from 'scripted'" in summary.reason
  assert "refused" in summary.reason
  # They were not settled: another run asks them.
  assert ask(map(request, range(30)), Scripted(), ledger).answered == 30


def test_every_request_is_counted_against_the_limit_of_a_minute(
  ledger, monkeypatch
):
  limits, taken = [], []

  class Limit(pacing.RateLimit):
    def __init__(self, per_minute):
      limits.append(per_minute)

    def delay(self, amount=1.0):
      return 0.0

    def take(self, amount=1.0):
      taken.append(amount)
      return []

  monkeypatch.setattr(pacing, "RateLimit", Limit)
  options = quick(requests_per_minute=1200, concurrency=16)
  ask(map(request, range(31)), Scripted(), ledger, options)
  assert limits == [1200]
  assert taken == [1.0] * 31


# -- money

CHEAP = Prices(({"m": Price(prompt=0.0, completion=1e5)},))  # 0.1 a token


def test_cost_is_counted(ledger):
  summary = ask(map(request, range(5)), Scripted(), ledger, prices=CHEAP)
  assert summary.cost == pytest.approx(5 * 2 * 0.1)
  more = ask(map(request, range(8)), Scripted(), ledger, prices=CHEAP)
  assert more.cost == pytest.approx(3 * 2 * 0.1)
  assert more.ledger_cost == pytest.approx(8 * 2 * 0.1)


def test_max_cost_counts_what_is_under_way(ledger):
  # A request is reserved at 10 tokens = 1.0 and costs 2 tokens = 0.2.
  teacher = Scripted(delay=0.01)
  options = quick(max_cost=3.0, concurrency=8)
  stream = [request(i) for i in range(50)]
  summary = ask(stream, teacher, ledger, options, prices=CHEAP)
  assert teacher.most_under_way == 3
  assert summary.stopped
  assert "max_cost is 3," in summary.reason
  # The last one went out when 2.0 were spent: 11 of 0.2.
  assert summary.answered == 11
  assert summary.cost == pytest.approx(2.2)
  # It is the ledger's budget, not the run's.
  again = ask(stream, Scripted(), ledger, options, prices=CHEAP)
  assert (again.attempts, again.stopped) == (0, True)


def test_max_cost_needs_a_price(ledger):
  for prices in (None, Prices(({},))):
    with pytest.raises(UserError, match="price of 'm'"):
      ask([request(0)], Scripted(), ledger, quick(max_cost=1), prices=prices)


def test_max_cost_expects_answers_as_long_as_they_are(ledger):
  """An endpoint whose thoughts are not bounded by max_tokens, which is 10."""
  teacher = Scripted(
    lambda r, n: Completion("x", prompt_tokens=5, completion_tokens=50)
  )
  options = quick(max_cost=9.5, concurrency=1)
  summary = ask(map(request, range(9)), teacher, ledger, options, prices=CHEAP)
  # The second would have been sent for the 1.0 of its limit, and cost 5.0.
  assert (summary.answered, summary.cost) == (1, pytest.approx(5.0))
  assert "max_cost is 9.5" in summary.reason


@pytest.mark.parametrize("counted", [None, 0])
def test_answers_without_usage_are_estimated(ledger, counted):
  answer = Completion(
    "x" * 20,
    prompt_tokens=counted,
    completion_tokens=counted,
    reasoning="y" * 20,
  )
  teacher = Scripted(lambda r, n: answer)
  summary = ask([request(0)], teacher, ledger, prices=CHEAP)
  assert summary.cost == pytest.approx(10 * 0.1)
  assert summary.completion_tokens == 0
  [charge] = ledger.charges()
  assert charge.tokens == Tokens(request(0).estimated_tokens().read, 10)


@pytest.mark.parametrize(
  ("kind", "is_paid"),
  [
    *((kind, True) for kind in ("timeout", "bad_response", "dropped")),
    *((kind, False) for kind in ("rate_limited", "server_error", "connection")),
  ],
)
def test_attempts_without_an_answer_count_if_they_may_be_paid_for(
  ledger, kind, is_paid
):
  teacher = Scripted(lambda r, n: TransientError(kind, "x") if n < 3 else None)
  summary = ask([request(0)], teacher, ledger, prices=CHEAP)
  # Two of them at the longest answer, 10 tokens, then an answer of 2.
  expected = (2 * 10 * 0.1 if is_paid else 0.0) + 0.2
  assert summary.cost == pytest.approx(expected)
  # The next run knows.
  assert CHEAP.total(ledger.charges()) == pytest.approx(expected)


def test_what_was_under_way_at_a_kill_counts(tmp_path):
  path = tmp_path / "ledger.sqlite"
  with Ledger(path) as ledger:
    tokens = request(0).estimated_tokens()
    for i in range(3):
      ledger.start_attempt(request(i).key, "t", "m", tokens)
  options = quick(max_cost=3.5)
  with Ledger(path) as ledger:
    summary = ask([request(0)], Scripted(), ledger, options, prices=CHEAP)
  assert summary.attempts == 0
  assert "spent so far: 3.0000" in summary.reason


def test_cached_tokens_are_cheaper(ledger):
  table = Prices(({"m": Price(prompt=1e5, completion=0, cached=1e4)},))
  answer = Completion(
    "x", prompt_tokens=10, cached_tokens=8, completion_tokens=1
  )
  teacher = Scripted(lambda r, n: answer)
  summary = ask([request(0)], teacher, ledger, prices=table)
  assert summary.cost == pytest.approx(2 * 0.1 + 8 * 0.01)
  assert table.total(ledger.charges()) == pytest.approx(summary.cost)


def test_estimated_tokens():
  text = Request("m", "x" * 401, Sampling(max_tokens=9))
  assert text.estimated_tokens() == Tokens(101, 9)
  chat = Request("m", (("user", "x" * 40), ("user", "é")), Sampling())
  assert chat.estimated_tokens() == Tokens(11 + 8, 256)


# -- stopping and telling


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_and_sigterm(ledger, presses, number):
  progress = Said()
  teacher = Scripted(delay=0.5 if presses == 1 else 60)

  def press():
    while not teacher.under_way:
      time.sleep(0.01)
    for _ in range(presses):
      os.kill(os.getpid(), number)
      time.sleep(0.1)

  thread = threading.Thread(target=press)
  thread.start()
  before = signal.getsignal(number)
  summary = ask(
    map(request, range(50)),
    teacher,
    ledger,
    quick(concurrency=4),
    progress=progress,
  )
  thread.join()
  assert signal.getsignal(number) is before
  assert summary.stopped
  assert summary.reason == "interrupted"
  assert progress.lines[0].startswith("finishing 4 requests")
  kind = "answered" if presses == 1 else "cancelled"
  assert results_of(ledger) == {kind: 4}
  assert ask(map(request, range(50)), Scripted(), ledger).answered == (
    46 if presses == 1 else 50
  )


def test_cancelling_the_call_notes_what_was_under_way(ledger):
  async def main():
    await asyncio.wait_for(
      request_loop.ask(
        map(request, range(9)), Scripted(delay=9), ledger, quick()
      ),
      0.05,
    )

  with pytest.raises(TimeoutError):
    asyncio.run(main())
  assert results_of(ledger) == {"cancelled": 8}


def test_progress_tells_rates_and_cost(ledger):
  progress = Said()
  ask(
    map(request, range(5)),
    Scripted(),
    ledger,
    prices=CHEAP,
    progress=progress,
    total=10,
  )
  step, text = progress.updates[-1]
  assert step == 5
  assert "req/s" in text
  assert "tok/s" in text
  assert "cost 1 of about 2" in text


@pytest.mark.parametrize(
  "wrong",
  [
    *({name: 0} for name in ("concurrency", "max_attempts", "timeout_s")),
    {"requests_per_minute": 0},
    {"max_cost": -1},
    {"tokens_per_minute": float("nan")},
  ],
)
def test_wrong_options_are_named(wrong):
  [name] = wrong
  with pytest.raises(UserError, match=f"^{name} is ") as caught:
    AskOptions(**wrong)
  assert caught.value.fields == (f"AskOptions.{name}",)


# -- a server that misbehaves and a process that is killed

# A process that asks `number` questions; run by path, so that it can be killed.
CLIENT = """
import asyncio, sys
from dss_jax.rationales.asking import request_loop
from dss_jax.rationales.extraction_plan import AskOptions, Endpoint
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Price, Prices
from dss_jax.rationales.teacher_requests import Request, Sampling
from dss_jax.rationales.teachers.openai_endpoint import OpenAIEndpoint

port, path, number, concurrency, timeout_s, max_cost = sys.argv[1:]

def requests():
  for i in range(int(number)):
    chat = (("system", "s"), ("user", f"question {i}"))
    yield Request("m", chat if i % 2 else f"question {i}", Sampling())

async def main():
  teacher = OpenAIEndpoint(Endpoint(
    "t", "m", base_url=f"http://127.0.0.1:{port}/v1", timeout_s=float(timeout_s)))
  options = AskOptions(
    concurrency=int(concurrency), timeout_s=float(timeout_s),
    backoff_s=0.05, max_backoff_s=0.5, max_attempts=30,
    max_cost=float(max_cost) if max_cost else None)
  prices = Prices(({"m": Price(prompt=1e6, completion=1e6)},))
  with Ledger(path) as ledger:
    summary = await request_loop.ask(
      requests(), teacher, ledger, options, prices=prices)
  await teacher.close()
  assert not summary.stopped or max_cost, summary

asyncio.run(main())
"""


@contextlib.contextmanager
def misbehaving(log, *flags):
  """The server as a process; yields its port."""
  command = [sys.executable, str(SERVER), f"--log={log}", *flags]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
      assert server.stdout is not None
      yield int(server.stdout.readline())
    finally:
      server.kill()


def logged(log):
  return [json.loads(line) for line in log.read_text().splitlines()]


def run_with_kills(
  folder,
  number,
  concurrency,
  kills,
  seed,
  repository,
  max_cost: object = "",
  usage=1,
):
  """Asks through faults and kills; returns (server's log, ledger's tables)."""
  log, path = folder / "server.jsonl", folder / "ledger.sqlite"
  rng = random.Random(seed)
  # Moments of the kills, in requests that the server has seen.
  reach = 200 if max_cost else int(1.2 * number)
  moments = sorted(rng.sample(range(10, reach), kills))
  environment = os.environ | {"PYTHONPATH": str(repository)}
  flags = ["--faults=0.4", "--hang=1.5", f"--seed={seed}", f"--usage={usage}"]
  with misbehaving(log, *flags) as port:
    arguments = [port, path, number, concurrency, 1.0, max_cost]
    command = [sys.executable, "-c", CLIENT, *map(str, arguments)]
    for moment in moments:
      client = subprocess.Popen(command, env=environment)
      while client.poll() is None:
        if log.exists() and log.read_bytes().count(b"\n") >= moment:
          break
        time.sleep(rng.uniform(0.001, 0.01))
      assert client.poll() is None, "it ended before it was to be killed"
      client.send_signal(signal.SIGKILL)
      client.wait()
      with Ledger(path, read_only=True) as ledger:
        assert results_of(ledger)[None] <= concurrency
    subprocess.run(command, env=environment, check=True, timeout=300)
  with Ledger(path, read_only=True) as ledger:
    return logged(log), list(ledger.attempts()), list(ledger.outcomes())


def reconcile(server, attempts, outcomes, number, concurrency, kills):
  """The laws that hold between the server's log and the ledger."""
  faults = [entry for entry in server if entry["fault"]]
  assert len(faults) >= 0.3 * len(server)

  # Each request ends with exactly one outcome, the right one.
  keys = {}
  for i in range(number):
    chat = (("system", "s"), ("user", f"question {i}"))
    prompt = chat if i % 2 else f"question {i}"
    keys[Request("m", prompt, Sampling()).key] = f"question {i}"
  assert collections.Counter(o.key for o in outcomes) == dict.fromkeys(keys, 1)
  for outcome in outcomes:
    assert outcome.kind == "answered"
    assert outcome.completion.text == f"answer to {keys[outcome.key]}"

  # Each request that the server got is one attempt of the ledger.
  by_id = {attempt.id: attempt for attempt in attempts}
  received = collections.Counter(entry["id"] for entry in server)
  assert set(received) <= set(by_id)
  assert max(received.values()) == 1
  for entry in server:
    assert keys[by_id[entry["id"]].key] == entry["prompt"]
  # One it never saw was open at a kill, or had no connection.
  for attempt in attempts:
    assert attempt.result is not None
    if attempt.id not in received:
      assert attempt.result in (
        *("interrupted", "connection", "dropped", "timeout"),
      )

  # Nothing is sent after its answer is committed, nor without need.
  answered_by = {outcome.key: outcome.attempt for outcome in outcomes}
  last = {}
  for attempt in attempts:
    assert attempt.number <= answered_by[attempt.key]
    assert last.get(attempt.key) != "answered"
    last[attempt.key] = attempt.result
  results = collections.Counter(attempt.result for attempt in attempts)
  assert results["answered"] == number
  assert results["interrupted"] <= kills * concurrency
  return results


@pytest.mark.slow
def test_killed_once_in_200_requests(tmp_path, repository):
  numbers = {"number": 200, "concurrency": 16, "kills": 1}
  tables = run_with_kills(tmp_path, **numbers, seed=3, repository=repository)
  reconcile(*tables, **numbers)


@pytest.mark.slow
@pytest.mark.thorough
def test_killed_five_times_in_2000_requests(tmp_path, repository):
  numbers = {"number": 2000, "concurrency": 16, "kills": 5}
  tables = run_with_kills(tmp_path, **numbers, seed=7, repository=repository)
  results = reconcile(*tables, **numbers)
  # Every kind of fault was met.
  for kind in ("rate_limited", "server_error", "bad_response", "dropped"):
    assert results[kind] > 0
  assert results["timeout"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kills", "usage"),
  [(4, 1), pytest.param(25, 0, marks=pytest.mark.thorough)],
)
def test_max_cost_holds_over_kills(tmp_path, repository, kills, usage):
  """A token costs 1; what a provider may bill never exceeds the limit."""
  # Enough for the kills, and far from enough for all requests.
  number, limit = 3000, 30_000 + 2000 * kills
  server, attempts, _ = run_with_kills(
    *(tmp_path, number, 8, kills, 11, repository),
    max_cost=limit,
    usage=usage,
  )
  sampling = Sampling()
  expected = 0
  for attempt in attempts:
    if attempt.result in ("rate_limited", "server_error", "connection"):
      continue
    estimate = attempt.tokens.read + sampling.max_tokens
    if attempt.result == "answered":
      assert attempt.tokens.written < 20
      estimate = attempt.tokens.all
    assert attempt.tokens.all == estimate, attempt
    expected += estimate
  with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
    [charge] = ledger.charges()
  assert charge.tokens.all == expected
  assert expected <= limit
  # The next request would not have been within it.
  assert expected + 8 + sampling.max_tokens >= limit
  # What reached the server and was worked on is in the sum.
  worked_on = {
    entry["id"]
    for entry in server
    if not (entry["fault"] or "").startswith(("429", "5"))
  }
  paid = {a.id for a in attempts if a.tokens.all}
  assert worked_on <= paid


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_requests(tmp_path):
  status = pathlib.Path("/proc/self/statm")
  if not status.exists():
    pytest.skip("needs /proc")
  sizes = []

  def stream():
    for i in range(30_000):
      if i in (3_000, 29_999):
        sizes.append(
          int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        )
      yield Request("m", f"{i} " + "x" * 2000, Sampling())

  class Forgetful(Scripted):
    async def complete(self, request, attempt_id):
      await asyncio.sleep(0)
      return Completion(f"answer to {request.prompt}")

  with Ledger(tmp_path / "ledger.sqlite") as ledger:
    summary = ask(stream(), Forgetful(), ledger, quick(concurrency=64))
  assert summary.answered == 30_000
  assert sizes[1] - sizes[0] < 15 * 2**20
