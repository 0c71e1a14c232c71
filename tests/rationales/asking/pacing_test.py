"""Pacing: limits hold in every minute; waits are bounded and spread."""

import asyncio
import math
import random

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.rationales.asking import pacing


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


def run_through(limit, clock, amounts, idle=lambda i: 0.0):
  """Takes the amounts as early as allowed; returns [(time, amount)]."""
  granted = []
  for i, amount in enumerate(amounts):
    clock.now += idle(i)
    while (wait := limit.delay(amount)) > 0:
      clock.now += wait
    limit.take(amount)
    granted.append((clock.now, amount))
  return granted


def most_in_a_minute(granted):
  return max(
    sum(amount for t, amount in granted if start <= t < start + 60)
    for start, _ in granted
  )


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600])
def test_requests_per_minute_from_the_first_minute_on(per_minute):
  clock = Clock()
  limit = pacing.RateLimit(per_minute, clock)
  granted = run_through(limit, clock, [1] * (3 * per_minute))
  assert most_in_a_minute(granted) <= per_minute
  # Evenly: no burst at the start, nothing wasted in the long run.
  first_second = sum(t < granted[0][0] + 1 for t, _ in granted)
  assert first_second <= max(1, math.ceil(1.6 * per_minute / 60))
  assert granted[-1][0] - granted[0][0] <= 60 * 3 + 1


@hypothesis.given(
  st.lists(
    st.tuples(st.integers(1, 400), st.floats(0, 20)), min_size=1, max_size=60
  )
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_tokens_per_minute_hold_for_any_amounts(steps):
  clock = Clock()
  limit = pacing.RateLimit(1000, clock)
  granted = run_through(
    limit, clock, [a for a, _ in steps], lambda i: steps[i][1]
  )
  assert most_in_a_minute(granted) <= 1000


def test_a_pause_is_caught_up_by_half_a_second_only():
  clock = Clock()
  limit = pacing.RateLimit(600, clock)
  limit.take()
  clock.now += 30
  granted = run_through(limit, clock, [1] * 20)
  assert sum(t == granted[0][0] for t, _ in granted) <= 6


def test_an_amount_beyond_the_limit_gets_a_minute_to_itself():
  clock = Clock()
  limit = pacing.RateLimit(100, clock)
  granted = run_through(limit, clock, [10, 500, 10])
  assert granted[1][0] >= granted[0][0] + 60
  assert granted[2][0] >= granted[1][0] + 60


def test_settling_frees_what_was_not_used():
  clock = Clock()
  limit = pacing.RateLimit(60, clock)
  grant = limit.take(50)
  assert limit.delay(20) > 40
  limit.settle(grant, 50, 5)
  assert limit.delay(20) <= 5
  limit.settle(limit.take(1), 1, 60)
  assert limit.delay(20) > 40


def test_memory_of_a_limit_is_bounded():
  clock = Clock()
  limit = pacing.RateLimit(1e6, clock)
  run_through(limit, clock, [1] * 20_000)
  assert len(limit._bins) <= 601
  clock.now += 61
  limit.delay()
  assert (len(limit._bins), limit._sum) == (0, 0)


def test_backoff_doubles_within_its_bounds():
  rng = random.Random(0)
  for failures, most in ((1, 1), (2, 2), (4, 8), (7, 60), (5000, 60)):
    waits = [pacing.backoff(failures, rng=rng) for _ in range(200)]
    assert most / 2 <= min(waits) <= max(waits) <= most
    assert max(waits) - min(waits) > most / 4


@pytest.mark.parametrize(
  ("asked", "least", "most"),
  [(3, 3, 3.3), (0, 0, 0), (-5, 0, 0), (1e9, 300, 330)],
)
def test_backoff_follows_the_server_up_to_a_bound(asked, least, most):
  assert least <= pacing.backoff(9, asked) <= most


@pytest.mark.parametrize("nonsense", [math.inf, math.nan])
def test_backoff_ignores_nonsense(nonsense):
  assert pacing.backoff(1, nonsense) <= 1


def test_breaker_opens_probes_and_closes():
  clock = Clock()
  breaker = pacing.Breaker(3, 5, 12, clock)
  for _ in range(2):
    breaker.failed(breaker.enter())
  breaker.succeeded()
  for _ in range(3):
    assert breaker.delay() == 0
    breaker.failed(breaker.enter())
  assert breaker.is_open
  assert breaker.delay() == 5
  # Those that were under way change nothing.
  breaker.failed(False)
  assert breaker.delay() == 5
  for pause in (10, 12, 12):
    clock.now += breaker.delay()
    assert breaker.enter()
    assert breaker.delay() == math.inf
    breaker.failed(True)
    assert breaker.delay() == pause
  clock.now += 12
  assert breaker.enter()
  breaker.abandoned(True)
  assert breaker.delay() == 0
  assert breaker.enter()
  breaker.succeeded()
  assert not breaker.is_open
  assert not breaker.enter()


def test_budget_counts_reservations():
  budget = pacing.Budget(10, spent=4)
  assert budget.fits(6)
  budget.reserve(6)
  assert not budget.fits(0.1)
  budget.settle(6, 1)
  assert budget.fits(5)
  assert not budget.fits(5.1)
  assert pacing.Budget().fits(1e9)


async def enter(pace, **amounts):
  """As `enter`, where it is known to let through."""
  entry = await pace.enter(**amounts)
  assert entry is not None
  return entry


def _pace(concurrency=2, **rest):
  return pacing.Pace(concurrency, pacing.Breaker(10), **rest)


def test_the_gate_is_first_come_first_served():
  async def main():
    pace = _pace(1)
    order = []

    async def named(name):
      entry = await enter(pace)
      order.append(name)
      return entry

    first = await named("a")
    waiting = [asyncio.create_task(named(name)) for name in "bcd"]
    await asyncio.sleep(0)
    assert order == ["a"]
    pace.leave(first, "ok")
    for task in waiting:
      pace.leave(await task, "ok")
    assert order == list("abcd")

  asyncio.run(main())


def test_the_window_halves_once_a_round_and_grows_again():
  async def main():
    pace = _pace(8)
    entries = [await enter(pace) for _ in range(8)]
    for entry in entries:
      pace.leave(entry, "rate_limited")
    entries = [await enter(pace) for _ in range(4)]
    fifth = asyncio.create_task(enter(pace))
    await asyncio.sleep(0.01)
    assert not fifth.done()
    pace.leave(entries[0], "ok")
    pace.leave(await fifth, "ok")
    for entry in entries[1:]:
      pace.leave(entry, "ok")
    assert pace._window == 8

  asyncio.run(main())


def test_nothing_is_let_through_before_a_pause_is_over():
  clock = Clock()

  async def run():
    pace = pacing.Pace(2, pacing.Breaker(9, clock=clock), clock=clock)
    pace.pause(0.01)
    waiting = asyncio.create_task(pace.enter())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    clock.now += 0.02
    assert pace.paused_s == 0
    assert await waiting is not None

  asyncio.run(run())


def test_closing_frees_who_waits():
  async def main():
    pace = _pace()
    pace.pause(60)
    waiting = [asyncio.create_task(pace.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    assert pace.paused_s > 50
    pace.close()
    assert await asyncio.gather(*waiting) == [None] * 3

  asyncio.run(main())


def test_money_that_cannot_suffice_closes_the_gate():
  async def main():
    pace = _pace(4, budget=pacing.Budget(1.0))
    first = await enter(pace, cost=0.8)
    second = asyncio.create_task(enter(pace, cost=0.8))
    await asyncio.sleep(0)
    assert not second.done()
    pace.leave(first, "ok", cost=0.1)
    pace.leave(await second, "ok", cost=0.8)
    assert await pace.enter(cost=0.8) is None
    assert pace.out_of_money

  asyncio.run(main())


def test_cancelling_who_waits_leaves_the_gate_usable():
  async def main():
    pace = _pace(1)
    first = await enter(pace)
    second = asyncio.create_task(pace.enter())
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    pace.leave(first, "ok")
    assert await pace.enter() is not None

  asyncio.run(main())
