"""Answers of teachers become a record's rationales: votes, gold, weights.

With the shares of the votes on the record (see `teacher_answers.py`),

    weight of a rationale = weight of its teacher x share of its label

What is left out is counted in the record's meta, so that a file of records
shows by itself how good its teachers were (see the folder `quality`).

Nothing here invents text: a rationale's text and label are those of an answer,
and a record without anything usable comes out with the reasons.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets.completions import Parsed
from dss_jax.datasets.records import MAX_RATIONALES, Rationale, Record
from dss_jax.rationales.extraction_plan import ChooseOptions
from dss_jax.rationales.teacher_answers import (
  NO_COMPLETION,
  SameAnswer,
  TeacherAnswer,
  Vote,
  count_votes,
)
from dss_jax.rationales.teacher_requests import Completion

# Statuses given here to answers that the parser accepted.
DISAGREES = "disagrees_with_gold"
INVALID_TEXT = "invalid_text"

# No rationale is longer, and a record keeps only the beginning of a longer
# completion (the ledger has all of it): its line must stay short enough to be
# read.
MAX_TEXT_CHARS = 1 << 16

# The key of `Record.meta` under which `choose` leaves its account.
ACCOUNT = "choosing"


def needs_rationalising(
  record: Record, answers: Iterable[TeacherAnswer], same_answer: SameAnswer
) -> bool:
  """Whether the record has a gold label that no usable answer agrees with.

  Rationales that were written for that label count as well.
  """
  if record.label is None:
    return False
  entries = (
    _entry(_storable_answer(answer), record, (), ChooseOptions(), same_answer)
    for answer in answers
  )
  return not any(entry.is_usable and entry.agrees for entry in entries)


def choose(
  record: Record,
  answers: Iterable[TeacherAnswer],
  options: ChooseOptions,
  same_answer: SameAnswer,
) -> Record:
  """The record with the rationales that its answers give.

  Args:
    record: id, input and gold label stay as they are.
    answers: answers about this record, in a fixed order (teachers, then
      samples).
    options: which answers to keep, and their weights.
    same_answer: whether two labels are the same answer.

  Returns:
    The record. `meta["choosing"]` accounts for all answers: `votes` (label and
    share, the winner first), `agrees` (whether the winner is the gold label),
    `left_out` (reason -> count) and `teachers` (name -> counts, tokens). Where
    there is no gold label, `meta["voted_label"]` is the winner.
  """
  answers = [_storable_answer(answer) for answer in answers]
  votes = count_votes(answers, same_answer)
  entries = [
    _entry(answer, record, votes, options, same_answer) for answer in answers
  ]
  kept, left_out = _select(record, entries, options, same_answer)
  if len(kept) > MAX_RATIONALES:
    left_out["too_many"] += len(kept) - MAX_RATIONALES
    kept = kept[:MAX_RATIONALES]
  account = _account(record, entries, votes, left_out, same_answer)
  meta = {**record.meta, ACCOUNT: account}
  meta.pop("voted_label", None)
  if votes and record.label is None:
    meta["voted_label"] = votes[0].label
  earlier = record.rationales if options.earlier == "keep" else ()
  room = MAX_RATIONALES - len(kept)
  return dataclasses.replace(
    record,
    rationales=(*earlier[:room], *(entry.rationale for entry in kept)),
    meta=meta,
  )


def account_of_rationales(
  record: Record, same_answer: SameAnswer
) -> dict[str, Any]:
  """The account of a record that `choose` did not make.

  Each rationale counts as one answer of its source; those with a weight vote.
  """
  answers = [_answer_of(rationale) for rationale in record.rationales]
  votes = count_votes([a for a in answers if a.weight > 0], same_answer)
  entries = [
    _entry(answer, record, votes, ChooseOptions(), same_answer)
    for answer in answers
  ]
  return _account(record, entries, votes, {}, same_answer)


def _answer_of(rationale: Rationale) -> TeacherAnswer:
  extra = rationale.extra
  model = extra.get("model")
  completion = None
  if rationale.status not in NO_COMPLETION:
    completion = Completion(
      "",
      prompt_tokens=count_in(extra.get("prompt_tokens")),
      completion_tokens=count_in(extra.get("completion_tokens")),
    )
  return TeacherAnswer(
    request_key="",
    teacher=rationale.source,
    model=model if isinstance(model, str) else "",
    sample=0,
    parsed=Parsed(rationale.text, rationale.label, rationale.status),
    completion=completion,
    weight=rationale.weight,
  )


def count_in(value: Any) -> int:
  """The value of a file as a count; 0 if it is not one."""
  if isinstance(value, bool) or not isinstance(value, int):
    return 0
  return value if 0 <= value < 1 << 53 else 0


# --- one answer --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Entry:
  """An answer and the rationale that it gives.

  Attributes:
    answer: the teacher's answer.
    rationale: as the record would hold it.
    agrees: whether its label is the gold one; None if one of them is missing.
    share: share of the votes for its label.
  """

  answer: TeacherAnswer
  rationale: Rationale
  agrees: bool | None
  share: float

  @property
  def is_usable(self) -> bool:
    if self.answer.rationalised:
      return self.agrees is True and bool(self.rationale.text.strip())
    return self.answer.is_usable


def _storable_answer(answer: TeacherAnswer) -> TeacherAnswer:
  """The answer itself, or without what no record can hold.

  That is a NUL character, half a surrogate pair, or too long a text.
  """
  parsed = answer.parsed
  try:
    if max(len(parsed.rationale), len(parsed.label or "")) > MAX_TEXT_CHARS:
      raise UserError("too long")
    Rationale(parsed.rationale, parsed.label, status=parsed.status)
  except UserError:
    return dataclasses.replace(answer, parsed=Parsed("", None, INVALID_TEXT))
  return answer


def _entry(
  answer: TeacherAnswer,
  record: Record,
  votes: Sequence[Vote],
  options: ChooseOptions,
  same_answer: SameAnswer,
) -> _Entry:
  parsed = answer.parsed
  if answer.rationalised and parsed.label is None and parsed.status == "ok":
    # The label was in the prompt and need not be repeated.
    parsed = dataclasses.replace(parsed, label=record.label)
  agrees = None
  if parsed.label is not None and record.label is not None:
    agrees = same_answer(parsed.label, record.label)
  share = _share(answer, votes, same_answer)
  weight = answer.weight
  if options.vote == "majority" and not answer.rationalised:
    weight *= share
  extra = _provenance(answer)
  with_text = options.keep_completions == "all" or (
    options.keep_completions == "unparsed" and parsed.status != "ok"
  )
  if with_text and answer.completion is not None:
    extra["completion"] = _storable(answer.completion.text[:MAX_TEXT_CHARS])
  rationale = Rationale(
    parsed.rationale,
    parsed.label,
    answer.teacher,
    weight,
    parsed.status,
    extra,
  )
  return _Entry(answer, rationale, agrees, share)


def _share(
  answer: TeacherAnswer, votes: Sequence[Vote], same_answer: SameAnswer
) -> float:
  if not answer.has_vote:
    return 0.0
  label = answer.parsed.label or ""
  return next((v.share for v in votes if same_answer(v.label, label)), 0.0)


def _provenance(answer: TeacherAnswer) -> dict[str, Any]:
  """Where a rationale comes from, as JSON values."""
  completion = answer.completion
  extra: dict[str, Any] = {
    "teacher": answer.teacher,
    "model": answer.model,
    "request": answer.request_key,
    "prompt": answer.prompt_sha256,
    "sample": answer.sample,
  }
  if answer.sampling is not None:
    sampling = dataclasses.asdict(answer.sampling)
    sampling["stop"] = list(sampling["stop"])
    extra["sampling"] = {
      name: value
      for name, value in sampling.items()
      if value not in (None, [], {})
    }
  if completion is not None:
    # The provider's own name, with a revision where it gives one.
    extra["model"] = _storable(completion.model)[:256] or answer.model
    extra["finish_reason"] = _storable(completion.finish_reason)[:64]
    for name in ("prompt_tokens", "completion_tokens"):
      if getattr(completion, name) is not None:
        extra[name] = getattr(completion, name)
  if answer.seconds is not None:
    extra["seconds"] = round(answer.seconds, 3)
  if answer.unix is not None:
    extra["unix"] = round(answer.unix, 3)
  if answer.rationalised:
    extra["rationalised"] = True
  if answer.reason:
    extra["reason"] = _storable(answer.reason)
  return extra


def _storable(text: str) -> str:
  """The text, with halves of surrogate pairs spelt out (`\\\\ud83d`)."""
  return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- all of a record's answers -----------------------------------------------


def _select(
  record: Record,
  entries: Sequence[_Entry],
  options: ChooseOptions,
  same_answer: SameAnswer,
) -> tuple[list[_Entry], collections.Counter[str]]:
  """The entries to keep, and how many are left out for which reason."""
  free = [entry for entry in entries if not entry.answer.rationalised]
  rationalised = [entry for entry in entries if entry.answer.rationalised]
  if options.gold == "keep" or record.label is None:
    kept = [entry for entry in free if entry.is_usable]
    if options.keep == "all":
      kept = free
  else:
    kept = [entry for entry in free if entry.is_usable and entry.agrees]
    if not kept and options.gold == "rationalise":
      kept = [entry for entry in rationalised if entry.is_usable]
    free = [_rejected(entry) for entry in free]
    rationalised = [_rejected(entry) for entry in rationalised]
  if options.keep == "majority":
    kept = _majority(kept, same_answer)
  elif options.keep == "one":
    kept = sorted(kept, key=lambda e: (-e.rationale.weight, -e.share))[:1]
  if not kept:  # nothing to learn from: the reasons stay
    kept = [*free, *rationalised] if options.gold == "rationalise" else free
  chosen = {id(entry.answer) for entry in kept}
  left_out: collections.Counter[str] = collections.Counter()
  for entry in entries:
    if id(entry.answer) in chosen:
      continue
    if entry.answer.rationalised:
      left_out["rationalised"] += 1
    elif not entry.is_usable:
      left_out["unusable"] += 1
    elif options.gold != "keep" and entry.agrees is False:
      left_out[DISAGREES] += 1
    else:
      left_out["not_chosen"] += 1
  return kept, left_out


def _rejected(entry: _Entry) -> _Entry:
  """The entry without a weight, as it stays where nothing else is kept."""
  rationale = entry.rationale
  status = rationale.status
  if entry.agrees is False and status == "ok":
    status = DISAGREES
  rationale = dataclasses.replace(rationale, weight=0.0, status=status)
  return dataclasses.replace(entry, rationale=rationale)


def _majority(
  entries: Sequence[_Entry], same_answer: SameAnswer
) -> list[_Entry]:
  """The entries for the label with the largest share; the first of equals."""
  if not entries:
    return []
  winner = max(entries, key=lambda entry: entry.share).rationale.label or ""
  return [e for e in entries if same_answer(e.rationale.label or "", winner)]


def _account(
  record: Record,
  entries: Sequence[_Entry],
  votes: Sequence[Vote],
  left_out: Mapping[str, int],
  same_answer: SameAnswer,
) -> dict[str, Any]:
  """What a record's meta says of its answers; see `choose`."""
  account: dict[str, Any] = {}
  if votes:
    account["votes"] = [[vote.label, vote.share] for vote in votes]
  if votes and record.label is not None:
    account["agrees"] = same_answer(votes[0].label, record.label)
  if left_out:
    account["left_out"] = dict(left_out)
  account["teachers"] = _teachers(entries)
  return account


def _teachers(entries: Sequence[_Entry]) -> dict[str, Any]:
  """Counts of each teacher's answers, kept or not; see `quality_report`."""
  teachers: dict[str, dict[str, Any]] = {}
  for entry in entries:
    answer, completion = entry.answer, entry.answer.completion
    counts = teachers.setdefault(
      answer.teacher, {"model": answer.model, "answers": 0, "statuses": {}}
    )
    statuses, status = counts["statuses"], entry.rationale.status
    statuses[status] = statuses.get(status, 0) + 1
    added = {"answers": 1}
    if answer.rationalised:
      added["rationalised"] = 1
    else:
      added["completions"] = completion is not None
      added["parsed"] = entry.rationale.label is not None
      added["usable"] = answer.has_vote
      if answer.has_vote and entry.agrees is not None:
        added |= {"compared": 1, "agree": entry.agrees}
    if completion is not None:
      for name in ("prompt_tokens", "completion_tokens"):
        added[name] = getattr(completion, name) or 0
    for name, number in added.items():
      counts[name] = counts.get(name, 0) + int(number)
  return teachers
