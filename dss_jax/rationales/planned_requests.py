"""Which requests a plan makes about records, and what they were answered.

Rounds, each a function of the records and of what the ledger holds:

1. `samples` answers per record;
2. in place of each that cannot be read a further sample, up to
   `retry_unparsed` times;
3. for records without a rationale for the gold label, where the plan says
   "rationalise", a request that shows the teacher this label, made to one
   teacher after the other until one writes such a rationale.

A run continues by making the same rounds again: what the ledger holds is not
asked again, what it lacks is. An answer that ended by itself is the answer
under any larger `max_tokens` too: where that is raised, only those that were cut
off are asked again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dss_jax.base.errors import UserError
from dss_jax.datasets.completions import Parsed
from dss_jax.datasets.records import Record
from dss_jax.rationales import completion_parsing, rationale_selection
from dss_jax.rationales.extraction_plan import ExtractionPlan, TeacherPlan
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.record_source import RecordSource
from dss_jax.rationales.teacher_answers import (
  UNANSWERED,
  UNASKED,
  UNKNOWN,
  TeacherAnswer,
)
from dss_jax.rationales.teacher_requests import Completion, Outcome, Request

# A record and what has been answered about it.
Answered = tuple[Record, list[TeacherAnswer]]

# Records whose answers are looked up at once.
_CHUNK = 128


class PlannedRequests:
  """The requests to one teacher, and its answers.

  Args:
    plan: what all teachers are asked.
    teacher_plan: what this teacher is asked.
    ledger: what it answered so far; None if it knows records.
  """

  def __init__(
    self, plan: ExtractionPlan, teacher_plan: TeacherPlan, ledger: Ledger | None
  ):
    self._plan = plan
    self._teacher_plan = teacher_plan
    self._ledger = ledger
    self._same_answer = functools.partial(
      completion_parsing.same_answer, plan.prompt
    )

  # -- the rounds

  def first(self, records: Iterable[Record]) -> Iterator[Request]:
    """The requests of the first round.

    Raises:
      UserError: at the end, if there were records and none fits the prompt.
    """
    fits, misfit = False, None
    records = iter(records)
    # Few at a time, since they are asked while more are read.
    while chunk := list(itertools.islice(records, _CHUNK // 4)):
      wanted: list[tuple[Record, Request]] = []
      for record in chunk:
        try:
          wanted += [(record, request) for request in self._samples(record)]
          fits = True
        except UserError as error:
          misfit = misfit or error
      yield from self._with_known_limits(wanted)
    if misfit is not None and not fits:
      raise UserError(f"no record fits the prompt; the first: {misfit}")

  def again(self, records: Iterable[Record]) -> Iterator[Request]:
    """The further samples that replace answers which cannot be read."""
    if not self._plan.retry_unparsed:
      return
    for _, asked in self._looked_up(records):
      for request, answer in asked:
        if (
          request is not None
          and request.sample >= self._teacher_plan.samples
          and answer.parsed.status == UNANSWERED
        ):
          yield request

  def with_gold_label(self, answered: Iterable[Answered]) -> Iterator[Request]:
    """Asks for a rationale for the gold label where there is none.

    Args:
      answered: records with the answers of all teachers. A record about which
        something is still to be asked is passed over.
    """
    if self._plan.choose.gold != "rationalise":
      return
    for record, answers in answered:
      if any(answer.parsed.status == UNANSWERED for answer in answers):
        continue
      if rationale_selection.needs_rationalising(
        record, answers, self._same_answer
      ):
        request = self._rationalisation(record)
        if request is not None:
          yield from self._with_known_limits([(record, request)])

  # -- the answers

  def answers(self, records: Iterable[Record]) -> Iterator[Answered]:
    """Each record with its answers so far, in the order of their samples."""
    if self._teacher_plan.knows_records:
      for record in records:
        yield record, [self._known_answer(record)]
      return
    for record, asked in self._looked_up(records):
      yield record, [answer for _, answer in asked]

  def _looked_up(
    self, records: Iterable[Record]
  ) -> Iterator[tuple[Record, list[tuple[Request | None, TeacherAnswer]]]]:
    """Each record with its requests and their answers.

    Sample `samples` + i is there if sample i cannot be read, and so on.
    """
    records = iter(records)
    while chunk := list(itertools.islice(records, _CHUNK)):
      asked: list[list[tuple[Request | None, TeacherAnswer]]] = [
        [] for _ in chunk
      ]
      wanted: list[tuple[int, Request]] = []
      for i, record in enumerate(chunk):
        try:
          wanted += [(i, request) for request in self._samples(record)]
        except UserError as error:
          answer = self._answer("", UNASKED, reason=str(error))
          asked[i].append((None, answer))
      for retry in range(self._plan.retry_unparsed + 1):
        wanted, outcomes = self._outcomes(chunk, wanted)
        unreadable = []
        for i, request in wanted:
          answer = self._read(chunk[i], request, outcomes.get(request.key))
          asked[i].append((request, answer))
          if retry < self._plan.retry_unparsed and _is_unreadable(answer):
            unreadable.append((i, self._next_sample(request)))
        wanted = unreadable
      self._add_rationalisations(chunk, asked)
      yield from zip(chunk, asked)

  def _add_rationalisations(
    self,
    chunk: Sequence[Record],
    asked: Sequence[list[tuple[Request | None, TeacherAnswer]]],
  ) -> None:
    """Adds the answers to rationalisations that the ledger holds."""
    if self._plan.choose.gold != "rationalise":
      return
    rationalisations = [
      (i, request)
      for i, record in enumerate(chunk)
      if (request := self._rationalisation(record))
    ]
    rationalisations, outcomes = self._outcomes(chunk, rationalisations)
    for i, request in rationalisations:
      if request.key in outcomes:
        answer = self._read(chunk[i], request, outcomes[request.key])
        answer = dataclasses.replace(answer, rationalised=True)
        asked[i].append((request, answer))

  def _with_known_limits(
    self, wanted: list[tuple[Record, Request]]
  ) -> list[Request]:
    """The requests, with a smaller `max_tokens` where its answer is whole.

    Of several, the largest limit; the request's own if it has an answer.
    """
    found = [request for _, request in wanted]
    if self._ledger is None:
      return found
    own = self._teacher_plan.sampling.max_tokens
    smaller = [limit for limit in self._ledger.limits() if limit < own]
    left = set(range(len(wanted)))
    for limit in [own, *reversed(smaller)] if smaller else ():
      limited = {
        i: dataclasses.replace(
          request,
          sampling=dataclasses.replace(request.sampling, max_tokens=limit),
        )
        for i in left
        for request in (wanted[i][1],)
      }
      outcomes = self._ledger.get_many(r.key for r in limited.values())
      for i, request in limited.items():
        outcome = outcomes.get(request.key)
        if outcome is None or outcome.completion is None:
          continue
        answer = self._read(wanted[i][0], request, outcome)
        if limit == own or answer.parsed.status != "truncated":
          found[i] = request
          left.discard(i)
    return found

  def _outcomes(
    self, chunk: Sequence[Record], wanted: Sequence[tuple[int, Request]]
  ) -> tuple[list[tuple[int, Request]], Mapping[str, Outcome]]:
    """The requests as `_with_known_limits` has them, and their outcomes."""
    assert self._ledger is not None
    known = self._with_known_limits([(chunk[i], r) for i, r in wanted])
    outcomes = self._ledger.get_many([request.key for request in known])
    return [(i, r) for (i, _), r in zip(wanted, known)], outcomes

  def _read(
    self, record: Record, request: Request, outcome: Outcome | None
  ) -> TeacherAnswer:
    if outcome is None:
      return self._answer(request.key, UNANSWERED, sample=request.sample)
    if outcome.completion is None:
      return self._answer(
        request.key,
        outcome.kind,
        sample=request.sample,
        reason=outcome.reason,
      )
    return self._answer(
      request.key,
      self._parsed(record, outcome.completion),
      sample=request.sample,
      completion=outcome.completion,
      sampling=request.sampling,
      seconds=outcome.seconds,
      unix=outcome.unix,
    )

  def _known_answer(self, record: Record) -> TeacherAnswer:
    """The answer of a teacher that knows records."""
    key = f"{self._teacher_plan.teacher.model}/{record.id}"
    completion: Completion | None = self._teacher_plan.teacher.answer(record)  # type: ignore[union-attr]
    if completion is None:
      return self._answer(key, UNKNOWN)
    parsed = self._parsed(record, completion)
    return self._answer(key, parsed, completion=completion)

  def _parsed(self, record: Record, completion: Completion) -> Parsed:
    plan = self._plan
    return completion_parsing.parse(
      plan.prompt, record, completion, plan.parser, plan.rationale_from
    )

  def _answer(self, key: str, parsed: Parsed | str, **known) -> TeacherAnswer:
    """An answer; a bare status stands for an answer that did not come."""
    teacher = self._teacher_plan.teacher
    return TeacherAnswer(
      request_key=key,
      teacher=teacher.name,
      model=teacher.model,
      sample=known.pop("sample", 0),
      parsed=Parsed("", None, parsed) if isinstance(parsed, str) else parsed,
      prompt_sha256=self._plan.prompt.sha256,
      weight=teacher.weight,
      **known,
    )

  # -- requests

  def _request(self, record: Record, label: str | None = None) -> Request:
    """The first request about a record.

    Raises:
      UserError: the record does not fit the prompt.
    """
    plan = self._teacher_plan
    return self._plan.prompt.request(
      record,
      style=plan.style,
      model=plan.teacher.model,
      sampling=plan.sampling,
      label=label,
    )

  def _samples(self, record: Record) -> list[Request]:
    """The requests of the first round; raises as `_request` does."""
    request = self._request(record)
    return [
      dataclasses.replace(request, sample=sample)
      for sample in range(self._teacher_plan.samples)
    ]

  def _next_sample(self, request: Request) -> Request:
    """The request to make if the answer to this one cannot be read."""
    # At temperature 0 the same answer would come again.
    warm = max(request.sampling.temperature, self._plan.retry_temperature)
    limit = self._teacher_plan.sampling.max_tokens
    return dataclasses.replace(
      request,
      sample=request.sample + self._teacher_plan.samples,
      sampling=dataclasses.replace(
        request.sampling, temperature=warm, max_tokens=limit
      ),
    )

  def _rationalisation(self, record: Record) -> Request | None:
    if record.label is None:
      return None
    try:
      return self._request(record, record.label)
    except UserError:
      return None


def _is_unreadable(answer: TeacherAnswer) -> bool:
  """Whether another sample may do better, which is asked for as this one was."""
  return (
    answer.completion is not None
    and answer.parsed.label is None
    and answer.parsed.status not in ("refused", "truncated")
  )


def answered(
  source: RecordSource, plan: ExtractionPlan, ledger: Ledger | None
) -> Iterator[Answered]:
  """The records with the answers of all teachers."""
  by_teacher = [
    PlannedRequests(plan, teacher_plan, ledger).answers(source.read())
    for teacher_plan in plan.teachers
  ]
  for of_all in zip(*by_teacher):
    yield of_all[0][0], [a for _, answers in of_all for a in answers]
