"""Flat records: a record with one of its rationales; and pairs made of them.

A record is flattened into one without a rationale and one per rationale:

    record (label, 2 rationales) -> flat records of rationale_index -1, 0, 1

They are flat so that SeqIO can cache them unchanged: they depend on the
records and the label source only. Everything that options change (prefixes,
filters, vocabulary) is applied to them, here in Python and in `data/seqio` in
TensorFlow, by the same rules:

* Training. A sub-task without rationales takes the flat record without one; a
  sub-task with rationales takes those whose rationale passes the filter, so a
  record with several rationales gives several pairs (the sampler takes one
  per epoch) and a record with none gives none.
* Evaluation (`validation`, `test`). Every record counts once, so that accuracy
  is over all of them: sub-tasks that write a label take the flat record of
  the first usable rationale, or else the one without, and `rationale` takes
  the former only. Filters do not apply.
* A pair whose target holds a label needs one. Training labels are gold or the
  teacher's; evaluation labels are always gold, as in the official code. An
  extra record without gold label has the teacher's in either case.
"""

import collections
import dataclasses
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import numpy as np

from dss_jax import vocabularies
from dss_jax.data.pairs import subtasks
from dss_jax.datasets import extra_records, splits
from dss_jax.datasets.extra_records import teacher_label
from dss_jax.datasets.records import Rationale, Record

TRAIN = "train"
SPLITS = (TRAIN, "validation", "test")

# agrees(gold label, teacher's label): whether they are the same answer.
Agrees = Callable[[str, str], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class FlatRecord:
  """One record with one of its rationales, or with none.

  Attributes:
    record: position of the record in its source split.
    id: the record's id.
    input: the record's input.
    label: the label to write; "" where there is none.
    has_label: whether there is one.
    unreadable: whether it would be the teacher's, which could not be read of
      any of its answers.
    rationale: the rationale's text; "" where there is none.
    rationale_index: position in the record's rationales; -1 for none.
    usable: whether the rationale has any text.
    represents: whether this one stands for its record in evaluation: the one
      of its first usable rationale, or without if no rationale is usable.
    agrees: whether the teacher's label is the gold one, or where that of an
      extra record is the teacher's, that one.
    weight: the rationale's weight; 1.0 where there is none.
  """

  record: int
  id: str
  input: str
  label: str
  has_label: bool
  unreadable: bool
  rationale: str
  rationale_index: int
  usable: bool
  represents: bool
  agrees: bool
  weight: float


def _is_usable(rationale: Rationale) -> bool:
  # Not by status: a rationale whose answer could not be read still argues, and
  # the official code trains on it. Parsers leave no text where there is none.
  return bool(rationale.text.strip())


# Stands in the flat record without a rationale.
_NO_RATIONALE = Rationale(text="")


def flatten(
  records: Iterable[Record],
  split: str,
  *,
  agrees: Agrees,
  label_source: str = "gold",
  rationale_source: str | None = None,
) -> Iterator[FlatRecord]:
  """Flattens the records of a split, in order.

  Args:
    records: the records of the source split.
    split: "train", "validation" or "test".
    agrees: compares gold and teacher's label, as the dataset's metric does.
    label_source: "gold" or "teacher"; the teacher's labels replace the gold
      ones in training only.
    rationale_source: if given, rationales of other sources are ignored.
  """
  for position, record in enumerate(records):
    rationales = [
      rationale
      for rationale in record.rationales
      if rationale_source in (None, rationale.source)
    ]
    gold = label = record.label
    is_teachers = split == TRAIN and (
      label_source == "teacher"
      or (gold is None and extra_records.is_extra(record.id))
    )
    if is_teachers:
      label = teacher_label(record)
      if gold is None and extra_records.is_extra(record.id):
        gold = label
    first_usable = next(
      (i for i, rationale in enumerate(rationales) if _is_usable(rationale)),
      -1,
    )
    for index, rationale in enumerate([_NO_RATIONALE, *rationales], -1):
      yield FlatRecord(
        record=position,
        id=record.id,
        input=record.input,
        label=label or "",
        has_label=label is not None,
        unreadable=(is_teachers and label is None and bool(record.rationales)),
        rationale=rationale.text,
        rationale_index=index,
        usable=index >= 0 and _is_usable(rationale),
        represents=index == first_usable,
        agrees=(
          gold is not None
          and rationale.label is not None
          and agrees(gold, rationale.label)
        ),
        weight=float(rationale.weight),
      )


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
  """A record's text for a sub-task: what to read and what to write.

  Attributes:
    record: position of the record in its source split.
    inputs: what the student reads.
    targets: what it writes.
    weight: its weight in the loss.
    flat_record: what it is made of.
  """

  record: int
  inputs: str
  targets: str
  weight: float
  flat_record: FlatRecord


def with_rationales(
  ids: Sequence[str], options: subtasks.MethodOptions
) -> list[int] | None:
  """Positions of the training records whose rationales are trained on.

  Args:
    ids: of the records of the training split, extra ones included.
    options: hold the fraction.

  Returns:
    As many as the fraction says, to the nearest; None for all of them.
  """
  if options.rationale_fraction == 1:
    return None
  return splits.nested_positions(
    ids, options.rationale_fraction, purpose="rationales"
  )


def make_pairs(
  flat_records: Iterable[FlatRecord],
  subtask: subtasks.SubTask,
  options: subtasks.MethodOptions,
  split: str,
  vocabulary: vocabularies.Vocabulary,
  left_out: collections.Counter[str] | None = None,
  chosen: Container[int] | None = None,
) -> Iterator[Pair]:
  """Makes the pairs of a sub-task.

  Args:
    flat_records: from `flatten`, with the sub-task's label and rationale source.
    subtask: what to read and write.
    options: prefixes, separators, filters.
    split: decides between the rules of training and of evaluation.
    vocabulary: counts tokens for `max_rationale_tokens`.
    left_out: if given, counts here what gave no pair, by reason.
    chosen: the records whose rationales are trained on, as `with_rationales`
      gives them; None for all.
  """
  left_out = collections.Counter() if left_out is None else left_out
  input_parts = subtask.input_parts(options)
  target_parts = subtask.target_parts(options)
  reason_of = _training_reason if split == TRAIN else _evaluation_reason
  for flat_record in flat_records:
    reason = reason_of(flat_record, subtask, options, vocabulary)
    if (
      reason is None
      and subtask.uses_rationale
      and chosen is not None
      and flat_record.record not in chosen
    ):
      reason = "record outside the fraction with rationales"
    if reason is None:
      fields = {
        "input": flat_record.input,
        "label": flat_record.label,
        "rationale": flat_record.rationale,
      }
      yield Pair(
        record=flat_record.record,
        inputs=subtasks.fill(input_parts, fields),
        targets=subtasks.fill(target_parts, fields),
        weight=_weight(flat_record, options) if split == TRAIN else 1.0,
        flat_record=flat_record,
      )
    elif reason:
      left_out[reason] += 1


NO_LABEL = "no label"


def _weight(flat_record: FlatRecord, options: subtasks.MethodOptions) -> float:
  is_equal = options.rationale_weights == "equal"
  return 1.0 if is_equal else flat_record.weight


def least_weight(options: subtasks.MethodOptions) -> np.float32:
  """`min_rationale_weight` as weights are compared with it: in the float32 that
  they have in batches, where a share of 3 in 5 is the 0.6 of a configuration."""
  return np.float32(options.min_rationale_weight)


def _training_reason(
  flat_record: FlatRecord,
  subtask: subtasks.SubTask,
  options: subtasks.MethodOptions,
  vocabulary: vocabularies.Vocabulary,
) -> str | None:
  """Says why training leaves a record out: None if it does not, "" if the sub-task
  takes another flat record of the same record."""
  if subtask.uses_rationale != (flat_record.rationale_index >= 0):
    return ""
  if subtask.uses_label and not flat_record.has_label:
    is_blank = options.unreadable_labels == "blank" and flat_record.unreadable
    if not is_blank:
      return NO_LABEL
  if not subtask.uses_rationale:
    return None
  if not flat_record.weight > 0:
    return "rationale of weight 0"
  if np.float32(flat_record.weight) < least_weight(options):
    return f"rationale of weight below {options.min_rationale_weight:g}"
  if options.rationale_filter != "all" and not flat_record.usable:
    return "rationale blank"
  if options.rationale_filter == "agrees" and not flat_record.agrees:
    return "rationale disagrees with the gold label"
  limit = options.max_rationale_tokens
  if (
    limit is not None and len(vocabulary.encode(flat_record.rationale)) > limit
  ):
    return f"rationale of more than {limit} tokens"
  return None


def _evaluation_reason(
  flat_record: FlatRecord,
  subtask: subtasks.SubTask,
  options: subtasks.MethodOptions,
  vocabulary: vocabularies.Vocabulary,
) -> str | None:
  """Says why evaluation leaves a record out; see `_training_reason`."""
  del options, vocabulary  # filters would change what is measured
  if not subtask.uses_rationale:
    if flat_record.rationale_index >= 0:
      return ""
  elif not flat_record.represents:
    return ""
  if subtask.uses_label:
    return None if flat_record.has_label else NO_LABEL
  return None if flat_record.usable else "no usable rationale"
