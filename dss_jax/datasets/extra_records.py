"""Extra records: further training data, most of it without gold labels.

`DataOptions.extra_records` adds them to a dataset's training data, behind its
own records and after the split: they are never validated or tested on, and a
training fraction is a fraction of the dataset's own records. The label of an
extra record is its gold one, or where it has none, the teacher's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from dss_jax.base import text_normalization
from dss_jax.datasets.records import Record

# Heads the ids of extra records, by which they are known wherever ids are,
# also in caches of SeqIO.
PREFIX = "extra/"


def is_extra(record_id: str) -> bool:
  """Whether the record of this id is an extra one."""
  return record_id.startswith(PREFIX)


def as_extra(record: Record) -> Record:
  """The record with an id of an extra one."""
  return dataclasses.replace(record, id=f"{PREFIX}{record.id}")


def apart_from(
  records: Iterable[Record], held_out: Sequence[Record]
) -> tuple[list[Record], list[Record]]:
  """The records whose inputs none of those held out has, and the others.

  Inputs are compared as answers are (`text_normalization.normal`).
  """
  inputs = {text_normalization.normal(record.input) for record in held_out}
  apart, shared = [], []
  for record in records:
    is_shared = text_normalization.normal(record.input) in inputs
    (shared if is_shared else apart).append(record)
  return apart, shared


def teacher_label(record: Record) -> str | None:
  """The teacher's label: the weighted majority over its rationales.

  With one rationale that is its label. With several samples it is
  self-consistency voting (arXiv 2203.11171); a tie goes to the earlier one.
  Rationales without a label, and those of weight 0, have no vote.
  """
  votes: dict[str, float] = {}
  for rationale in record.rationales:
    label = rationale.label or ""
    if label.strip() and rationale.weight > 0:
      votes[label] = votes.get(label, 0.0) + rationale.weight
  return max(votes, key=lambda label: votes[label]) if votes else None


def count(
  records: Iterable[Record], label_source: str = "gold"
) -> dict[str, int]:
  """Where the labels of extra records come from.

  Args:
    records: the extra ones.
    label_source: "teacher" where no gold label is trained on.

  Returns:
    `rows`, and of these `gold_labels`, `teacher_labels` (there is no gold one)
    and `no_label` (neither).
  """
  counts = {"rows": 0, "gold_labels": 0, "teacher_labels": 0, "no_label": 0}
  for record in records:
    counts["rows"] += 1
    if record.label is not None and label_source == "gold":
      counts["gold_labels"] += 1
    elif teacher_label(record) is not None:
      counts["teacher_labels"] += 1
    else:
      counts["no_label"] += 1
  return counts
