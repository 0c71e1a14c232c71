"""Datasets: where records come from, by name, split and options.

records = load_split("svamp", "train", options=DataOptions(data_dir=...))
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from dss_jax.base.errors import UserError, one_line
from dss_jax.datasets import (
  arithmetic,
  extra_records,
  record_files,
  shipped_datasets,
  splits,
)
from dss_jax.datasets.dataset_spec import (
  SPLITS,
  DatasetSpec,
  get,
  names,
  register,
)
from dss_jax.datasets.families import FAMILIES
from dss_jax.datasets.options import DATA_DIR_VARIABLE, DataOptions
from dss_jax.datasets.record_files import RecordFiles
from dss_jax.datasets.records import READ_SUFFIXES, MissingFileError, Record

__all__ = [
  "DATA_DIR_VARIABLE",
  "SHIPPED",
  "SPLITS",
  "DataOptions",
  "DatasetSpec",
  "RecordFiles",
  "get",
  "label_source",
  "load_extra_records",
  "load_source_split",
  "load_split",
  "load_training_source",
  "names",
  "num_held_out_extra_records",
  "rationale_source",
  "register",
  "source_splits",
  "split_positions",
]

shipped_datasets.register_all()

# Labels that an error names.
_SHOWN_LABELS = 8

# The datasets that come with dss_jax, whatever else is registered.
SHIPPED = shipped_datasets.SPECS


def load_split(
  name: str, split: str, *, options: DataOptions | None = None
) -> list[Record]:
  """The records of a split, after the split policy and the fraction.

  Args:
    name: of a registered dataset.
    split: "train", "validation" or "test".
    options: see `DataOptions`; defaults throughout if None.

  Returns:
    The records. Under the fixed policy they are in the order of the source,
    under the official one in the official order; extra records come last.

  Raises:
    UserError: for an unknown name or split, data that cannot be read, or a
      gold label that is none of the dataset's.
  """
  options = options or DataOptions()
  spec = get(name)
  if split not in SPLITS:
    raise UserError(f"no split {split!r}; allowed: {', '.join(SPLITS)}")
  if split == "test" or (
    split == "validation" and split in source_splits(spec, options)
  ):
    records = load_source_split(name, split, options=options)
    records = records[: options.max_records]
  else:
    source = load_training_source(name, options)
    train, validation = split_positions(
      spec, [record.id for record in source], options
    )
    kept = train if split == "train" else validation
    records = [source[position] for position in kept]
  _check_labels(spec, split, records)
  return records


def _check_labels(
  spec: DatasetSpec, split: str, records: Sequence[Record]
) -> None:
  """Raises UserError for a gold label that the dataset does not list.

  A student that answers with one of the listed labels could never be right.
  """
  if spec.labels is None:
    return
  others = collections.Counter(
    record.label
    for record in records
    if record.label is not None and record.label not in spec.labels
  )
  if others:
    shown = ", ".join(f"{one_line(label, longest=40)!r} ({n})"
                      for label, n in others.most_common(_SHOWN_LABELS))  # fmt: skip
    raise UserError(
      f"{others.total()} of {len(records)} gold labels of dataset"
      f" {spec.name!r}, {split}, are none of its labels"
      f" ({', '.join(map(repr, spec.labels[:_SHOWN_LABELS]))}): {shown}; add"
      " them where the dataset is registered (labels=), or correct the data"
    )


def load_source_split(
  name: str, split: str, *, options: DataOptions | None = None
) -> list[Record]:
  """All records of one of the source's own splits, before any cutting.

  Raises:
    UserError: if the source has no such split, or it cannot be read.
  """
  options = options or DataOptions()
  spec = get(name)
  if options.source == "records":
    records = record_files.load_from_folder(name, split, options)
  elif split in spec.source_splits:
    records = spec.load(split, options)
  else:
    raise UserError(
      f"dataset {name!r} has no {split!r} data; its source has:"
      f" {', '.join(spec.source_splits)}"
    )
  return _spelt(spec, records, options)


def load_training_source(name: str, options: DataOptions) -> list[Record]:
  """The source's training split, and the extra records behind it."""
  records = load_source_split(name, "train", options=options)
  return [*records, *load_extra_records(name, options)]


def load_extra_records(name: str, options: DataOptions) -> list[Record]:
  """The extra records of a dataset's training data; none where none are asked for.

  Those with an input that is validated or tested on are left out, see
  `num_held_out_extra_records`.

  Raises:
    UserError: if they cannot be read, or are the dataset's own.
  """
  return _split_extra_records(name, options)[0]


def num_held_out_extra_records(name: str, options: DataOptions) -> int:
  """How many extra records are left out: their inputs are held out.

  They have the input of a record of validation or test, of which scores would
  mean nothing if the student had trained on it. A split whose file is not there
  holds out nothing.

  Raises:
    UserError: if they cannot be read, or are the dataset's own.
  """
  return len(_split_extra_records(name, options)[1])


def _split_extra_records(
  name: str, options: DataOptions
) -> tuple[list[Record], list[Record]]:
  """The extra records that train, and those whose inputs are held out."""
  if options.extra_records is None:
    return [], []
  records = _read_extra_records(name, options, options.extra_records)
  own = dataclasses.replace(options, extra_records=None, max_records=None)
  has_test = "test" in source_splits(get(name), own)
  held_out: list[Record] = []
  for split in ("validation", "test") if has_test else ("validation",):
    try:
      held_out += load_split(name, split, options=own)
    except MissingFileError:
      continue
  return extra_records.apart_from(records, held_out)


def _read_extra_records(
  name: str, options: DataOptions, source: str
) -> list[Record]:
  """All records of the source, a file or a dataset, as extra ones."""
  if source == name:
    raise UserError(
      f"extra_records is {source!r}, which is what is trained on; it must be a"
      " file of records or another dataset",
      fields="DataOptions.extra_records",
    )
  if source.endswith(READ_SUFFIXES):
    records = record_files.read_file(source)
  elif source in names():
    own = dataclasses.replace(options, extra_records=None)
    records = load_source_split(source, "train", options=own)
  else:
    raise UserError(
      f"extra_records is {source!r}; it must be a file of records"
      f" ({', '.join(READ_SUFFIXES)}) or a dataset: {', '.join(names())}",
      fields="DataOptions.extra_records",
    )
  return [
    extra_records.as_extra(record)
    for record in _spelt(get(name), records, options)
  ]


def _spelt(
  spec: DatasetSpec, records: list[Record], options: DataOptions
) -> list[Record]:
  """The records with labels in the spelling that the options ask for."""
  if options.label_spelling == "normalized" and spec.has_arithmetic_labels:
    return [_with_normalized_labels(record) for record in records]
  return records


def source_splits(spec: DatasetSpec, options: DataOptions) -> tuple[str, ...]:
  """The splits that a dataset's source has, which is where options point.

  Raises:
    UserError: if the source is a folder of records that is not there.
  """
  if options.source == "records":
    return record_files.folder_splits(spec.name, options)
  return spec.source_splits


def split_positions(
  spec: DatasetSpec, ids: list[str], options: DataOptions
) -> tuple[list[int], list[int]]:
  """Which records of the training source train, and which validate.

  Args:
    spec: the dataset.
    ids: of its training source's records, in order, extra ones included.
    options: split policy, fraction, seed and `max_records`.

  Returns:
    (training, validation) positions; the latter is empty for a dataset with
    validation data of its own. All extra records train, behind the others,
    whatever cuts these.
  """
  places = range(len(ids))
  extra = [place for place in places if extra_records.is_extra(ids[place])]
  own = [place for place in places if not extra_records.is_extra(ids[place])]
  train, validation = _own_split_positions(
    spec, [ids[place] for place in own], options
  )
  return (
    [*(own[i] for i in train[: options.max_records]), *extra],
    [own[i] for i in validation[: options.max_records]],
  )


def _own_split_positions(
  spec: DatasetSpec, ids: list[str], options: DataOptions
) -> tuple[list[int], list[int]]:
  """`split_positions` without extra records."""
  cut_validation = "validation" not in source_splits(spec, options)
  if options.split_policy == "official":
    return splits.official_split(
      len(ids),
      fraction=options.train_fraction,
      seed=options.split_seed,
      cut_validation=cut_validation,
    )
  is_shuffled = spec.shuffled and options.source != "records"
  if is_shuffled and not cut_validation:
    count = splits.fraction_count(len(ids), options.train_fraction)
    return list(range(count)), []
  return splits.fixed_split(
    ids,
    fraction=options.train_fraction,
    seed=options.split_seed,
    cut_validation=cut_validation,
  )


def rationale_source(name: str, options: DataOptions) -> str | None:
  """Who wrote the rationales that a dataset trains on; None if nobody.

  Args:
    name: of the dataset.
    options: see `DataOptions`. Of a generated dataset its control is named, as
      in "taxonli shuffled"; several teachers are joined, as in "palm+human".
  """
  if options.source != "records" and name in {spec.name for spec in SHIPPED}:
    own: Sequence[str] = options.rationale_sources
    control = None
    if name == "taxonli":
      control = options.taxonli_control
    elif name in FAMILIES:
      control = options.generated_control
    if control is not None:
      own = [name if control == "none" else f"{name} {control}"]
    extra = _sources(load_extra_records(name, options))
    return "+".join(dict.fromkeys([*own, *extra]))
  return "+".join(_sources(load_training_source(name, options))) or None


def label_source(name: str, options: DataOptions, asked: str = "gold") -> str:
  """Whose labels a dataset trains on: "gold", "teacher" or "gold+teacher".

  Args:
    name: of the dataset.
    options: see `DataOptions`.
    asked: "teacher" where no gold label is trained on. Where gold labels are
      asked for, extra records without one still have the teacher's.
  """
  if asked != "gold":
    return asked
  is_shipped = name in {spec.name for spec in SHIPPED}
  if options.source != "records" and is_shipped:
    extra = load_extra_records(name, options)
  else:
    source = load_training_source(name, options)
    extra = [r for r in source if extra_records.is_extra(r.id)]
  if extra_records.count(extra)["teacher_labels"]:
    return "gold+teacher"
  return asked


def _sources(records: Sequence[Record]) -> list[str]:
  """Who wrote the rationales of records, in alphabetical order."""
  sources = {r.source for record in records for r in record.rationales}
  return sorted(filter(None, sources))


def _with_normalized_labels(record: Record) -> Record:
  return dataclasses.replace(
    record,
    label=_normalized(record.label),
    rationales=tuple(
      dataclasses.replace(rationale, label=_normalized(rationale.label))
      for rationale in record.rationales
    ),
  )


def _normalized(label: str | None) -> str | None:
  """One spelling; a label without a value stays as it is."""
  return label if label is None else arithmetic.normalize(label) or label
