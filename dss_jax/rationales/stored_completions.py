"""Completions that are there already become answers in a ledger.

A file of what some model once wrote (JSON lines, a JSON list, CSV, Parquet) is
taken for the answers to the requests that a plan would make. Parsing, votes,
records and the report are then those of any other run, and nothing is asked.

Entries belong to the records whose ids they have, several to a record where an
id comes again; entries without ids belong to the records in order.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError, one_line
from dss_jax.datasets.records import (
  MAX_FIELD_CHARS,
  MAX_RATIONALES,
  FieldMapping,
  iter_entries,
)
from dss_jax.datasets.records.field_mapping import MAPPABLE_FIELDS
from dss_jax.datasets.records.record import text_or_none
from dss_jax.rationales.extraction_plan import ExtractionPlan
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.record_source import RecordSource
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  Completion,
  Outcome,
  Request,
)

# The names that fields usually have. "completion" says what it holds; of the
# others a file may have one only, as "text" may also be the question.
TEXT_FIELDS = (
  "completion", "completions", "text", "response", "output", "generated_text",
  "model_output", "model_outputs", "generation", "prediction",
)  # fmt: skip
_ID_FIELDS = ("record_id", "custom_id", "id")
_REASONING_FIELDS = ("reasoning", "reasoning_content", "thinking")
_FINISH_FIELDS = ("finish_reason", "stop_reason")
# Bytes of a JSON file that is one list of texts.
MAX_LIST_BYTES = 1 << 28
_OUTCOMES_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True)
class StoredCompletion:
  """One entry of a file.

  Attributes:
    record_id: the record that it is about; None if the order says so.
    completion: what the file holds; None for an entry without a text.
  """

  record_id: str | None
  completion: Completion | None


@dataclasses.dataclass(frozen=True)
class Added:
  """What became of the entries of a file.

  Attributes:
    answers: entries that are answers to requests now.
    blank: entries without a text.
    strangers: entries whose id is none of the records'.
    misfits: entries of records that do not fit the prompt.
    repeated: entries of records whose input occurred before; the answer to the
      first one stands for all.
  """

  answers: int = 0
  blank: int = 0
  strangers: int = 0
  misfits: int = 0
  repeated: int = 0


def read(
  path: str | os.PathLike[str], *, field: str | None = None
) -> list[StoredCompletion]:
  """The completions of a file.

  Args:
    path: a file that `datasets.records` reads, or a JSON list of texts.
    field: the field of the texts; None takes what there is of TEXT_FIELDS. Names
      of fields need not agree in case.

  Raises:
    UserError: the file cannot be read, lacks the field, has several that it may
      be, an id that cannot be one, or ids for some entries only.
  """
  if not os.path.isfile(path):
    raise UserError(f"no such file: {path}", fields="completions")
  entries = [
    (f"{path}:{number}", _with_plain_names(f"{path}:{number}", entry))
    for number, entry in _entries(path)
  ]
  if not entries:
    raise UserError(f"{path} holds no completions", fields="completions")
  # Tables leave empty cells out: which fields there are, all entries say.
  names = {name: None for _, entry in entries for name in entry}
  name = _text_field(path, list(names), field)
  found = [_stored(where, entry, name) for where, entry in entries]
  with_id = sum(entry.record_id is not None for entry in found)
  if with_id not in (0, len(found)):
    raise UserError(
      f"{path}: {with_id} of {len(found)} entries have an id; give one to all or"
      " to none (they then belong to the records in order)",
      fields="completions",
    )
  return found


def most_per_record(stored: Iterable[StoredCompletion]) -> int:
  """The most completions that any one record has: the samples of its teacher."""
  counts = collections.Counter(
    entry.record_id for entry in stored if entry.record_id is not None
  )
  return min(max(counts.values(), default=1), MAX_RATIONALES)


def add(
  stored: Sequence[StoredCompletion],
  source: RecordSource,
  plan: ExtractionPlan,
  ledger: Ledger,
) -> Added:
  """Puts completions into a ledger, as answers to the plan's requests.

  Args:
    stored: of `read`.
    source: the records that they are about.
    plan: its one teacher is the model that wrote them.
    ledger: open for writing.

  Raises:
    UserError: the numbers of records and of completions without ids differ, no
      id is a record's, or the ledger holds other answers to these requests.
  """
  counts: collections.Counter[str] = collections.Counter()
  completions: dict[str, Completion] = {}
  for request, completion in _matched(stored, source, plan, counts):
    if request.key in completions:
      counts["repeated"] += 1
      continue
    completions[request.key] = completion
    counts["answers"] += 1
  _check_ledger(completions, ledger)
  [own] = plan.teachers
  now = time.time()
  for number, (key, completion) in enumerate(completions.items(), 1):
    ledger.add_outcome(
      Outcome(
        key,
        ANSWERED,
        own.teacher.name,
        own.teacher.model,
        completion,
        unix=now,
      )
    )
    if number % _OUTCOMES_AT_ONCE == 0:
      ledger.flush()
  ledger.flush()
  return Added(**counts)


def _matched(
  stored: Sequence[StoredCompletion],
  source: RecordSource,
  plan: ExtractionPlan,
  counts: collections.Counter[str],
) -> Iterator[tuple[Request, Completion]]:
  """Requests and their answers; what is left out is counted."""
  [own] = plan.teachers
  has_ids = stored[0].record_id is not None
  by_id: dict[str, list[Completion | None]] = {}
  if has_ids:
    for entry in stored:
      by_id.setdefault(entry.record_id or "", []).append(entry.completion)
  elif len(stored) != source.count:
    raise UserError(
      f"{len(stored)} completions and {source.count} records: without ids they"
      " belong together by their order, so there must be one for each",
      fields="completions",
    )
  for number, record in enumerate(source.read()):
    found = [] if has_ids else [stored[number].completion]
    found = by_id.pop(record.id, found)
    said = [completion for completion in found if completion is not None]
    counts["blank"] += len(found) - len(said)
    try:
      for sample, completion in enumerate(said[: own.samples]):
        request = plan.prompt.request(
          record,
          style=own.style,
          model=own.teacher.model,
          sampling=own.sampling,
          sample=sample,
        )
        yield request, completion
    except UserError:
      counts["misfits"] += len(said)
  if by_id:
    counts["strangers"] += sum(map(len, by_id.values()))
    if counts["strangers"] == len(stored):
      raise UserError(
        f"none of the completions' ids, such as {next(iter(by_id))!r}, is a"
        f" record's of {source.name}",
        fields="completions",
      )


def _check_ledger(
  completions: Mapping[str, Completion], ledger: Ledger
) -> None:
  """Raises UserError if other answers are there: the first one stays."""
  others = sum(
    outcome.completion is not None
    and outcome.completion.text != completions[key].text
    for key, outcome in ledger.get_many(completions).items()
  )
  if others:
    raise UserError(
      f"{str(ledger.path)!r} holds {others} other answers to the same requests;"
      " name another folder, or another model",
      fields=("output_dir", "Endpoint.model"),
    )


# --- the file -----------------------------------------------------------------


# Under which a text that is an entry by itself is kept.
_ONLY_TEXT = ""
# No key is a field's: entries are to be seen as they are.
_AS_THEY_ARE = FieldMapping(dict.fromkeys(MAPPABLE_FIELDS, ()))


def _entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
  """The entries of a file with their line numbers."""
  texts = _list_of_texts(path)
  if texts is None:
    return iter_entries(path, _AS_THEY_ARE)
  return enumerate(({_ONLY_TEXT: text} for text in texts), 1)


def _with_plain_names(where: str, entry: Any) -> dict[str, Any]:
  """An entry by names in small letters.

  Raises:
    UserError: it is no entry, or two of its names are the same in this way.
  """
  if isinstance(entry, UserError):
    raise UserError(f"{where}: {entry}", fields="completions")
  plain: dict[str, Any] = {}
  for name, value in entry.items():
    key = _plain(name)
    if key in plain and plain[key] != value:
      raise UserError(
        f"{where}: the field {key!r} is there twice", fields="completions"
      )
    plain[key] = value
  return plain


def _plain(name: str) -> str:
  return name.strip().casefold()


def _text_field(
  path: str | os.PathLike[str], names: Sequence[str], field: str | None
) -> str:
  """The field of a file that holds the texts.

  Raises:
    UserError: if there is none, or several may be meant.
  """
  if _ONLY_TEXT in names:
    return _ONLY_TEXT
  wanted = [_plain(field)] if field else TEXT_FIELDS
  found = [name for name in wanted if name in names]
  if not found:
    listed = repr(field) if field else f"of {', '.join(TEXT_FIELDS)}"
    raise UserError(
      f"{path}: no field {listed}; its fields: {one_line(', '.join(names))}",
      fields="completion_field",
    )
  if len(found) > 1 and found[0] != "completion":
    raise UserError(
      f"{path}: the fields {', '.join(map(repr, found))} may all hold the"
      " completions; say which does by completion_field",
      fields="completion_field",
    )
  if not field:
    logging.getLogger(__name__).warning(
      "%s: the completions are read from the field %r", path, found[0]
    )
  return found[0]


def _list_of_texts(path: str | os.PathLike[str]) -> list[str] | None:
  """The texts of a JSON file that is a list of nothing else."""
  name = os.fspath(path)
  if not name.endswith(".json") or os.path.getsize(name) > MAX_LIST_BYTES:
    return None
  with open(name, "rb") as file:
    if not file.read(1 << 12).lstrip().startswith(b"["):
      return None
    file.seek(0)
    content = file.read()
  try:
    found = strict_json.loads(content.decode("utf-8"))
  except (UserError, UnicodeDecodeError):
    return None  # the reader of records says why
  if isinstance(found, list) and all(isinstance(x, str) for x in found):
    return found
  return None


def _stored(
  where: str, entry: Mapping[str, Any], name: str
) -> StoredCompletion:
  """An entry of a file as a completion."""
  text = entry.get(name)
  if isinstance(text, list) and len(text) == 1:
    [text] = text
  record_id = _id(where, entry)
  # Only a number can be NaN, which is how pandas writes a missing text.
  if (
    text is None or text != text or (isinstance(text, str) and not text.strip())
  ):
    return StoredCompletion(record_id, None)
  if not isinstance(text, str):
    raise UserError(
      f"{where}: {name} is {one_line(repr(text), longest=40)}; it must be text",
      fields="completion_field",
    )
  return StoredCompletion(record_id, _completion(where, text, entry))


def _id(where: str, entry: Mapping[str, Any]) -> str | None:
  """The record's id, in the spelling that a record of such a file has.

  Raises:
    UserError: if it cannot be one; the order would take its place.
  """
  for name in _ID_FIELDS:
    try:
      found = text_or_none(name, entry.get(name))
    except UserError as error:
      raise UserError(f"{where}: {error}", fields="completions") from None
    if found:
      return found
  return None


def _completion(where: str, text: str, entry: Mapping[str, Any]) -> Completion:
  if len(text) > MAX_FIELD_CHARS:
    raise UserError(
      f"{where}: {len(text)} characters; at most {MAX_FIELD_CHARS} are allowed",
      fields="completions",
    )
  reasoning = _first(entry, _REASONING_FIELDS)
  return Completion(
    text,
    # How it ended is often not known: its text then has to say.
    finish_reason=_first(entry, _FINISH_FIELDS) or "",
    model=_first(entry, ("model",)) or "",
    reasoning=reasoning and reasoning[:MAX_FIELD_CHARS],
  )


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> str | None:
  for name in names:
    value = entry.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
      value = str(value)
    if isinstance(value, str) and value:
      return value
  return None
