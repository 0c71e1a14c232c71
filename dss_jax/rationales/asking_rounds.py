"""Asking the teachers everything, round by round.

The rounds are those of `planned_requests`. The first answers of a teacher are
looked at before the rest is asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from dss_jax.base.progress import Progress
from dss_jax.rationales import first_answers
from dss_jax.rationales.asking import event_loops, request_loop
from dss_jax.rationales.asking.ask_summary import Summary
from dss_jax.rationales.extraction_plan import ExtractionPlan, TeacherPlan
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.planned_requests import PlannedRequests, answered
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.record_source import RecordSource
from dss_jax.rationales.teacher_requests import Request
from dss_jax.rationales.teachers import Teacher

# Teacher -> round -> what asking did.
Summaries = dict[str, dict[str, Summary]]


def ask_everything(
  source: RecordSource,
  plan: ExtractionPlan,
  ledger: Ledger,
  *,
  prices: Prices | None = None,
  stream: TextIO | None = None,
) -> tuple[Summaries, str]:
  """Asks the teachers everything that the ledger does not hold.

  Args:
    source: the records.
    plan: prompt and teachers.
    ledger: open for writing.
    prices: prices of models; the packaged table if None.
    stream: where progress is shown; None shows it on standard error.

  Returns:
    What asking did, and why something is left to ask ("" if nothing is). The
    answers are in the ledger.

  Raises:
    UserError: as `request_loop.ask`.
  """
  prices = prices or Prices.load()
  for teacher_plan in plan.prompted_teachers:
    ledger.add_limit(teacher_plan.sampling.max_tokens)
  summaries = event_loops.run(_ask_all(source, plan, ledger, prices, stream))
  reasons = [
    summary.reason
    for rounds in summaries.values()
    for summary in rounds.values()
    if summary.stopped
  ]
  return summaries, reasons[0] if reasons else ""


async def _ask_all(
  source: RecordSource,
  plan: ExtractionPlan,
  ledger: Ledger,
  prices: Prices,
  stream: TextIO | None,
) -> Summaries:
  """Asks all rounds of all teachers, one after the other, until one stops."""

  async def ask(
    teacher_plan: TeacherPlan,
    title: str,
    requests: Iterable[Request],
    total: int,
  ) -> Summary:
    teacher = teachers[teacher_plan.teacher.name]
    progress = Progress(
      total,
      description=_title(teacher.name, title),
      waiting="asking ...",
      stream=stream,
    )
    with contextlib.closing(progress):
      return await request_loop.ask(
        *(requests, teacher, ledger, teacher_plan.ask),
        prices=prices,
        progress=progress,
        total=total,
      )

  summaries: Summaries = {}
  async with contextlib.AsyncExitStack() as stack:
    # All of them first: a missing key must not surface hours later.
    teachers: dict[str, Teacher] = {}
    for teacher_plan in plan.prompted_teachers:
      teacher = teacher_plan.teacher.connect()  # type: ignore[union-attr]
      stack.push_async_callback(teacher.close)
      teachers[teacher.name] = teacher
    for teacher_plan, name, requests in _rounds(source, plan, ledger):
      begin, summary = 0, Summary()
      if name == "first":
        total = source.count * teacher_plan.samples
        if plan.min_yield and 0 < plan.check_first < total:
          begin = plan.check_first
          some = itertools.islice(requests(), begin)
          first_plan = _stopping_after(teacher_plan, begin)
          summary = await ask(first_plan, f"first {begin}", some, begin)
          if not summary.stopped:
            planned = PlannedRequests(plan, teacher_plan, ledger)
            first_answers.check_yield(planned, source, plan)
      elif not (total := sum(1 for _ in requests())):
        continue
      if not summary.stopped:
        left = itertools.islice(requests(), begin, None)
        rest = await ask(teacher_plan, name, left, total - begin)
        summary = summary.followed_by(rest)
      summaries.setdefault(teacher_plan.teacher.name, {})[name] = summary
      if summary.stopped:
        break
  return summaries


def _stopping_after(plan: TeacherPlan, rejections: int) -> TeacherPlan:
  """The plan of a few requests, which stops if all of them are rejected."""
  most = min(rejections, plan.ask.stop_after_rejections)
  ask = dataclasses.replace(plan.ask, stop_after_rejections=most)
  return dataclasses.replace(plan, ask=ask)


def _title(teacher: str, round_name: str) -> str:
  """The title of a progress bar, short enough for a line of 80 columns."""
  teacher = teacher if len(teacher) <= 20 else f"{teacher[:19]}…"
  return teacher if round_name == "first" else f"{teacher} {round_name}"


def _rounds(
  source: RecordSource, plan: ExtractionPlan, ledger: Ledger
) -> Iterator[tuple[TeacherPlan, str, Callable[[], Iterator[Request]]]]:
  """Teacher, name and requests (by what the ledger holds) of each round."""
  asked = [
    (teacher_plan, PlannedRequests(plan, teacher_plan, ledger))
    for teacher_plan in plan.prompted_teachers
  ]
  for teacher_plan, planned in asked:
    yield teacher_plan, "first", lambda p=planned: p.first(source.read())
    for number in range(1, plan.retry_unparsed + 1):
      name = f"retry {number}"
      yield teacher_plan, name, lambda p=planned: p.again(source.read())
  if plan.choose.gold == "rationalise":
    for teacher_plan, planned in asked:
      yield (
        teacher_plan,
        "rationalise",
        lambda p=planned: p.with_gold_label(answered(source, plan, ledger)),
      )
