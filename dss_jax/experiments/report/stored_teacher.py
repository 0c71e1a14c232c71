"""The teacher's own accuracy, from answers that it gave earlier.

The officially released completions are read by both parsers, so that a released
dataset has two rows; for your own data, the records that `dss-jax extract`
wrote hold what the teacher answered. Answers are scored by the scorer of the
students, item by item: one that cannot be read is wrong. Items that the teacher
was never asked about, or whose requests failed, have no answer: they count for
nothing, and students are compared on the others.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dss_jax import datasets
from dss_jax.base import text_normalization
from dss_jax.base.errors import UserError
from dss_jax.datasets import metrics, record_files
from dss_jax.datasets.records import Record
from dss_jax.experiments.report.finished_runs import Answers, Run
from dss_jax.rationales import rationale_selection
from dss_jax.rationales.completion_parsing import same_answer
from dss_jax.rationales.quality import accounts
from dss_jax.rationales.teacher_answers import NO_COMPLETION

# The datasets whose completions were released.
_RELEASED = ("svamp", "cqa", "esnli", "anli1", "anli2", "anli3")
_TEACHERS = ("palm", "gpt-neox")
_PARSERS = ("official", "tolerant")
_same = functools.partial(same_answer, "label")


@dataclasses.dataclass(frozen=True)
class StoredAnswer:
  """What a teacher answered about an item.

  Attributes:
    label: None if it named none.
    rationale: its reasons; may be empty.
    gold: the item's gold label.
  """

  label: str | None
  rationale: str
  gold: str


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A teacher's stored answers to a dataset, read in one way.

  Attributes:
    dataset: the dataset's name.
    name: such as "palm, tolerant parser".
    answers: item id -> answer, of the items that it answered.
    splits: the ids of each of the source's splits.
  """

  dataset: str
  name: str
  answers: Mapping[str, StoredAnswer]
  splits: Mapping[str, tuple[str, ...]]

  def scores(self, items: Answers, metric: str) -> np.ndarray | None:
    """[items] of 0 and 1, NaN for items that it did not answer.

    Args:
      items: answers of a student, for their ids and targets.
      metric: judges an answer.

    Returns:
      The scores; None where it answered fewer than two of the items, or items
      of other gold labels.
    """
    pairs = [
      (target, self.answers.get(item))
      for item, target in zip(items.ids, items.targets, strict=True)
    ]
    known = [(target, each) for target, each in pairs if each is not None]
    if len(known) < 2 or not all(
      _same_gold(metric, target, answer.gold) for target, answer in known
    ):
      return None
    return np.array(
      [
        math.nan if answer is None else is_right(metric, target, answer)
        for target, answer in pairs
      ],
      float,
    )

  def accuracy(self, split: str, metric: str) -> tuple[float, int] | None:
    """Accuracy on a split of the source, and its items; None without any."""
    ids = self.splits.get(split, ())
    if not ids:
      return None
    found = [self.answers[item] for item in ids]
    right = sum(is_right(metric, answer.gold, answer) for answer in found)
    return right / len(found), len(found)


def is_right(metric: str, target: str, answer: StoredAnswer) -> bool:
  """Whether a stored answer is right; none at all is wrong."""
  label = answer.label
  return bool(label) and metrics.is_correct(metric, target, label or "")


def _same_gold(metric: str, target: str, gold: str) -> bool:
  return text_normalization.same(target, gold) or (
    metric != "accuracy" and metrics.is_correct(metric, target, gold)
  )


def of_runs(
  runs: Iterable[Run],
  files: Sequence[str | os.PathLike[str]] = (),
  data_dir: str | None = None,
) -> tuple[list[Teacher], list[str]]:
  """The teachers whose answers to the datasets of runs are at hand.

  Args:
    runs: of any datasets.
    files: records whose rationales have the teacher's labels.
    data_dir: folder of the released data; None takes that of the runs, or
      DSS_DATA_DIR.

  Returns:
    The teachers, and a line about each whose answers are not there or are of no
    use.

  Raises:
    UserError: one of the files cannot be read.
  """
  by_dataset: dict[str, list[Run]] = {}
  for run in runs:
    by_dataset.setdefault(run.entry["dataset"], []).append(run)
  teachers: list[Teacher] = []
  notes: list[str] = []
  for dataset, members in by_dataset.items():
    if dataset not in _RELEASED:
      continue
    for source in _sources(members):
      found, note = _released(dataset, source, members[0], data_dir)
      teachers += found
      if not found and not files:
        notes.append(note)
  for name, answers in _of_files(files).items():
    if any(answer.label for answer in answers.values()):
      teachers += [Teacher(each, name, answers, {}) for each in by_dataset]
    else:
      notes.append(
        f"{name} is not compared with: none of its stored answers has a label, as"
        " rationales have that `dss-jax extract` wrote"
      )
  return teachers, notes


def _sources(runs: Iterable[Run]) -> list[str]:
  """The released teachers that taught the runs; PaLM if none of them did."""
  named = [str(run.entry.get("rationale_source") or "") for run in runs]
  taught = {source for name in named for source in name.split("+")}
  return [each for each in _TEACHERS if each in taught] or [_TEACHERS[0]]


def _released(
  dataset: str, source: str, run: Run, data_dir: str | None
) -> tuple[list[Teacher], str]:
  """The released completions, read by each parser; else why there are none."""
  folder = (
    data_dir
    or _text_setting(run, "DATA_DIR")
    or _text_setting(run, "DataOptions.data_dir")
  )
  spelling = _text_setting(run, "DataOptions.label_spelling") or "as_is"
  found: list[Teacher] = []
  note = ""
  for parser in _PARSERS:
    options = datasets.DataOptions(
      data_dir=folder,
      rationale_source=source,
      parser=parser,
      label_spelling=spelling,
    )
    answers: dict[str, StoredAnswer] = {}
    splits: dict[str, tuple[str, ...]] = {}
    for split in datasets.get(dataset).source_splits:
      try:
        records = datasets.load_source_split(dataset, split, options=options)
      except UserError as error:
        note = f"the teacher's answers to {dataset} are not at hand: {error}"
        continue
      stored = _stored(records)
      splits[split] = tuple(stored)
      answers |= stored
    if answers:
      name = f"{source}, {parser} parser"
      found.append(Teacher(dataset, name, answers, splits))
  return found, note


def _text_setting(run: Run, name: str) -> str | None:
  """A setting that is a text; None if it is not one."""
  for key in (name, f"data.{name}"):
    try:
      value = ast.literal_eval(run.settings.get(key, "None"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      continue
    if isinstance(value, str):
      return value
  return None


def _of_files(
  files: Iterable[str | os.PathLike[str]],
) -> dict[str, dict[str, StoredAnswer]]:
  """Teacher -> item id -> answer.

  Splits may be files of their own. Files that have a model in common are of one
  teacher, which may be several models: not all of them need have answered to
  each split.
  """
  found: list[tuple[set[str], dict[str, StoredAnswer]]] = []
  for path in files:
    records = record_files.read_file(path)
    names, stored = _names(records), _stored(records)
    for other in [each for each in found if each[0] & names]:
      found.remove(other)
      names, stored = other[0] | names, other[1] | stored
    found.append((names, stored))
  return {" + ".join(sorted(names)): stored for names, stored in found}


def _names(records: Iterable[Record]) -> set[str]:
  """Who answered."""
  names: set[str] = set()
  for record in records:
    account = record.meta.get(rationale_selection.ACCOUNT)
    asked = account.get("teachers") if isinstance(account, Mapping) else None
    if isinstance(asked, Mapping):
      names |= {str(name) for name in asked}
    else:
      names |= {each.source for each in record.rationales}
  return names - {""} or {"the teacher"}


def _stored(records: Iterable[Record]) -> dict[str, StoredAnswer]:
  """What records say that their teacher answered; those without gold aside."""
  return {
    record.id: StoredAnswer(*_answer(record), record.label)
    for record in records
    if record.label is not None and _was_answered(record)
  }


def _was_answered(record: Record) -> bool:
  """Whether any request about a record got an answer, readable or not."""
  account = record.meta.get(rationale_selection.ACCOUNT)
  statuses = {rationale.status for rationale in record.rationales}
  if isinstance(account, Mapping):
    # Answers that were not kept as rationales count too.
    for counts in accounts.account_of(record, _same).teachers.values():
      statuses |= accounts.counts_of(counts.get("statuses")).keys()
    if account.get("votes"):
      return True
  return not statuses <= set(NO_COMPLETION)


def _answer(record: Record) -> tuple[str | None, str]:
  """The teacher's label and a rationale for it.

  An account of all answers counts, where `extract` left one: records may lack
  the answers that did not agree with the gold label. Rationales that were
  written for a given label are no answers.
  """
  own = tuple(
    rationale
    for rationale in record.rationales
    if rationale.extra.get("rationalised") is not True
  )
  record = dataclasses.replace(record, rationales=own)
  if rationale_selection.ACCOUNT not in record.meta and len(own) == 1:
    return own[0].label, own[0].text
  votes = accounts.account_of(record, _same).votes
  label = votes[0].label if votes else None
  texts = [r.text for r in own if label is not None and r.label == label]
  return label, texts[0] if texts else ""
