"""What batch interfaces send back, into the ledger.

Results come in any order, once, twice or never, in files of answers and files
of errors; each line is counted as something, and none is believed: of results
for requests that were never written, nothing is kept.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Problem, SeenTexts
from dss_jax.datasets.records.json_lines import read_lines
from dss_jax.rationales.grouping import in_groups
from dss_jax.rationales.teachers.batch_answers import Answers
from dss_jax.rationales.teachers.batch_lines import Result, read_result
from dss_jax.rationales.teachers.batch_requests import asked_keys

PathLike = str | os.PathLike[str]
Line = tuple[int, str | UserError]

# Problems that are told one by one; all are counted.
MAX_PROBLEMS = 20

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class ReadReport:
  """What `read_results` found; every line is counted once.

  Attributes:
    answered: new answers.
    rejected: requests that will never be answered, new ones.
    failed: requests that failed and may be asked again.
    known: results for requests that needed no answer any more.
    repeated: results for requests that an earlier line settled.
    unknown: results for requests that were never written.
    malformed: lines that are no results.
    missing: written requests that no line is about; None if it is not known
      which were written.
    problems: of the failed, unknown and malformed, the first MAX_PROBLEMS.
  """

  answered: int = 0
  rejected: int = 0
  failed: int = 0
  known: int = 0
  repeated: int = 0
  unknown: int = 0
  malformed: int = 0
  missing: int | None = None
  problems: tuple[Problem, ...] = ()


def read_results(
  files: Iterable[PathLike],
  answers: Answers,
  *,
  asked: PathLike | None = None,
) -> ReadReport:
  """Takes results into the ledger.

  Args:
    files: of results and of errors, in any order; read line by line.
    answers: where they go.
    asked: the folder of `batch_requests.write_requests`. Without it, every result with a key
      of the right form is taken.

  Raises:
    UserError: a file that cannot be read, or a folder without requests.
  """
  models: list[str] = []
  keys = None
  if asked is not None:
    keys = asked_keys(asked, models)
  reader = _Reader(answers, keys, models)
  for path in files:
    try:
      with open(path, "rb") as file:
        for lines in in_groups(_lines(file)):
          reader.add(path, lines)
    except OSError as error:
      raise UserError(
        f"cannot read {path}: {error.strerror or error}"
      ) from None
  return reader.report()


def _lines(file: BinaryIO) -> Iterator[Line]:
  """Lines with their numbers, but for empty ones."""
  for number, line in read_lines(file):
    if not isinstance(line, str) or line.strip():
      yield number, line


class _Reader:
  """Counts results and keeps those that are new."""

  def __init__(
    self, answers: Answers, keys: SeenTexts | None, models: Sequence[str]
  ):
    self._answers, self._keys, self._models = answers, keys, models
    self._counts: dict[str, int] = dict.fromkeys(
      (
        "answered",
        "rejected",
        "failed",
        "known",
        "repeated",
        "unknown",
        "malformed",
      ),
      0,
    )
    self._settled = SeenTexts()
    self._mentioned = SeenTexts()
    self._problems: list[Problem] = []

  def add(self, path: PathLike, lines: Iterable[Line]):
    results: list[tuple[int, Result]] = []
    for number, line in lines:
      try:
        if isinstance(line, UserError):
          raise line
        results.append((number, read_result(line)))
      except UserError as error:
        self._count("malformed", path, number, str(error))
    known = self._answers.has([result.key for _, result in results])
    for number, result in results:
      self._add_result(path, number, result, result.key in known)

  def _add_result(
    self, path: PathLike, number: int, result: Result, is_known: bool
  ):
    key = result.key
    if not _KEY.fullmatch(key) or (
      self._keys is not None and key not in self._keys
    ):
      self._count("unknown", path, number, f"unknown custom_id {key[:80]!r}")
      return
    self._mentioned.add(key)
    if key in self._settled:
      self._counts["repeated"] += 1
    elif is_known:
      self._counts["known"] += 1
    elif not result.is_final:
      self._count("failed", path, number, result.reason)
    else:
      self._settled.add(key)
      self._keep(result)

  def _keep(self, result: Result):
    model = ""
    if self._keys is not None:
      model = self._models[self._keys.get(result.key) or 0]
    if result.completion is None:
      self._counts["rejected"] += 1
      self._answers.record_rejection(result.key, result.reason, model=model)
    else:
      self._counts["answered"] += 1
      self._answers.record_answer(
        result.key,
        result.completion,
        model=model or result.completion.model,
        unix=result.unix,
      )

  def _count(self, name: str, path: PathLike, number: int, reason: str):
    self._counts[name] += 1
    if len(self._problems) < MAX_PROBLEMS:
      self._problems.append(Problem(os.fspath(path), number, reason))

  def report(self) -> ReadReport:
    missing = None
    if self._keys is not None:
      missing = len(self._keys) - len(self._mentioned)
    return ReadReport(
      **self._counts, missing=missing, problems=tuple(self._problems)
    )
