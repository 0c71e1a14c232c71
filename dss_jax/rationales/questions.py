"""Which requests a plan makes about records, and what they were answered.

Rounds, each a function of the records and of what the ledger holds:

1. `samples` answers per record;
2. for each that cannot be read, further samples, up to `retry_unparsed`;
3. for records without a rationale for the gold label, if that is wished, one
   by the teacher who is told that label.

A run goes on by making the same rounds again: what the ledger holds is not
asked again, what it lacks is.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping

from dss_jax.datasets.completions import Parsed
from dss_jax.errors import UserError
from dss_jax.rationales import choosing, parsing
from dss_jax.rationales.choosing import Answer
from dss_jax.rationales.ledger import Ledger, Outcome
from dss_jax.rationales.plan import Plan, TeacherPlan
from dss_jax.rationales.requests import Completion, Request
from dss_jax.records import Record

# Statuses of answers that never came.
UNASKED = "unasked"  # the record does not fit the prompt
UNANSWERED = "unanswered"  # not asked yet, or a teacher does not know it

# Records whose answers are looked up at once.
_CHUNK = 128


class Questions:
  """The requests to one teacher, and its answers.

  Args:
    plan: what is wished of all teachers.
    teacher_plan: what is wished of this one.
    ledger: what it was asked and answered so far; None if it knows records.
  """

  def __init__(
    self, plan: Plan, teacher_plan: TeacherPlan, ledger: Ledger | None
  ):
    self._plan = plan
    self._own = teacher_plan
    self._ledger = ledger
    self._same_answer = functools.partial(parsing.same_answer, plan.prompt)

  # -- the rounds

  def first(self, records: Iterable[Record]) -> Iterator[Request]:
    """The requests of the first round."""
    for record in records:
      yield from (self._requests(record) or [])[: self._own.samples]

  def again(self, records: Iterable[Record]) -> Iterator[Request]:
    """A further sample for each answer that could not be read."""
    if not self._plan.retry_unparsed:
      return
    for requests, answers in self._asked(records):
      unreadable = sum(map(_is_unreadable, answers))
      end = self._own.samples + unreadable
      yield from requests[self._own.samples : end]

  def with_gold_label(self, records: Iterable[Record]) -> Iterator[Request]:
    """For records without a rationale for the gold label: ask for one."""
    if self._plan.choose.gold != "rationalise":
      return
    for record, answers in self.answers(records):
      request = self._rationalisation(record)
      if request is not None and choosing.needs_rationalising(
        record, answers, self._same_answer
      ):
        yield request

  # -- the answers

  def answers(
    self, records: Iterable[Record]
  ) -> Iterator[tuple[Record, list[Answer]]]:
    """Each record with its answers so far, in the order of their samples."""
    if self._own.knows_records:
      for record in records:
        yield record, [self._known_answer(record)]
      return
    for record, requests, outcomes in self._looked_up(records):
      yield record, self._answers(record, requests, outcomes)

  def _asked(
    self, records: Iterable[Record]
  ) -> Iterator[tuple[list[Request], list[Answer]]]:
    for record, requests, outcomes in self._looked_up(records):
      if requests:
        answers = self._answers(record, requests, outcomes)
        yield requests, [a for a in answers if not a.rationalised]

  def _looked_up(
    self, records: Iterable[Record]
  ) -> Iterator[tuple[Record, list[Request] | None, Mapping[str, Outcome]]]:
    """Each record with its requests but rationalisation, and what is known."""
    assert self._ledger is not None
    records = iter(records)
    while chunk := list(itertools.islice(records, _CHUNK)):
      wanted = [self._requests(record) for record in chunk]
      keys = [r.key for requests in wanted for r in requests or ()]
      if self._plan.choose.gold == "rationalise":
        given = map(self._rationalisation, chunk)
        keys += [request.key for request in given if request]
      outcomes = self._ledger.get_many(keys)
      for record, requests in zip(chunk, wanted):
        yield record, requests, outcomes

  def _answers(
    self,
    record: Record,
    requests: list[Request] | None,
    outcomes: Mapping[str, Outcome],
  ) -> list[Answer]:
    if requests is None:
      return [self._answer("", Parsed("", None, UNASKED))]
    answers = []
    for request in requests:
      if request.key in outcomes:
        answers.append(self._read(record, request, outcomes[request.key]))
      elif request.sample < self._own.samples:
        answers.append(
          self._answer(
            request.key, Parsed("", None, UNANSWERED), sample=request.sample
          )
        )
    if self._plan.choose.gold == "rationalise":
      given = self._rationalisation(record)
      if given is not None and given.key in outcomes:
        answer = self._read(record, given, outcomes[given.key])
        answers.append(dataclasses.replace(answer, rationalised=True))
    return answers

  def _read(self, record: Record, request: Request, outcome: Outcome) -> Answer:
    if outcome.completion is None:
      parsed = Parsed("", None, outcome.kind)
    else:
      parsed = parsing.parse(
        self._plan.prompt, record, outcome.completion, self._plan.parser
      )
    return self._answer(
      request.key,
      parsed,
      sample=request.sample,
      completion=outcome.completion,
      sampling=request.sampling,
      seconds=outcome.seconds,
      unix=outcome.unix,
    )

  def _known_answer(self, record: Record) -> Answer:
    """Of a teacher that knows records."""
    key = f"{self._own.teacher.model}/{record.id}"
    completion: Completion | None = self._own.teacher.answer(record)  # type: ignore[union-attr]
    if completion is None:
      return self._answer(key, Parsed("", None, UNANSWERED))
    parsed = parsing.parse(
      self._plan.prompt, record, completion, self._plan.parser
    )
    return self._answer(key, parsed, completion=completion)

  def _answer(
    self, key: str, parsed: Parsed, *, sample: int = 0, **known
  ) -> Answer:
    teacher = self._own.teacher
    return Answer(
      request_key=key,
      teacher=teacher.name,
      model=teacher.model,
      sample=sample,
      parsed=parsed,
      prompt_sha256=self._plan.prompt.sha256,
      weight=teacher.weight,
      **known,
    )

  # -- requests

  def _requests(self, record: Record) -> list[Request] | None:
    """All that may be asked of a record without its label; None if nothing.

    The first `samples`, then those for retries.
    """
    plan, own = self._plan, self._own
    try:
      first = plan.prompt.request(
        record, style=own.style, model=own.teacher.model, sampling=own.sampling
      )
    except UserError:
      return None
    retried = dataclasses.replace(
      first.sampling,
      temperature=max(first.sampling.temperature, plan.retry_temperature),
    )
    return [
      dataclasses.replace(
        first,
        sample=sample,
        sampling=first.sampling if sample < own.samples else retried,
      )
      for sample in range(own.samples * (1 + plan.retry_unparsed))
    ]

  def _rationalisation(self, record: Record) -> Request | None:
    if record.label is None:
      return None
    own = self._own
    try:
      return self._plan.prompt.request(
        record,
        style=own.style,
        model=own.teacher.model,
        sampling=own.sampling,
        label=record.label,
      )
    except UserError:
      return None


def _is_unreadable(answer: Answer) -> bool:
  """Whether another sample may do better."""
  return (
    answer.completion is not None
    and answer.parsed.label is None
    and answer.parsed.status != "refused"
  )
