"""What `dss-jax data stats` prints, as JSON values: of a dataset, or a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dss_jax import datasets, vocabularies
from dss_jax.cli.data_flags import SourceFlags, StatsFlags
from dss_jax.datasets import DataOptions, extra_records, statistics
from dss_jax.datasets.records import MissingFileError, Problem, Record

# How many malformed lines are named one by one.
SHOWN_PROBLEMS = 20


def of_dataset(
  source: SourceFlags, stats: StatsFlags, options: DataOptions
) -> dict[str, Any]:
  """All that `data stats` prints about a registered dataset, as JSON values.

  Args:
    source: names the dataset, and perhaps a split.
    stats: what is counted.
    options: where the data are, and how they are read.

  Raises:
    UserError: for data that cannot be read; only a split without a file is
      reported, next to the others.
  """
  spec = datasets.get(source.dataset or "")
  vocabulary = vocabularies.from_name(
    stats.vocabulary or vocabularies.default_name(spec.name)
  )
  splits: dict[str, Any] = {}
  sizes: dict[str, int] = {}
  missing: dict[str, str] = {}
  found_splits = datasets.source_splits(spec, options)
  for split in (source.split,) if source.split else found_splits:
    try:
      found, records = statistics.report_split(spec.name, split, options)
    except MissingFileError as error:
      missing[split] = str(error)
      if source.split or len(missing) == len(found_splits):
        raise
      continue
    splits[split] = found.to_dict(options.parser)
    splits[split]["tokens"] = statistics.token_lengths(
      records[: stats.limit], vocabulary, prefix=stats.prefix
    )
    sizes[split] = len(records)
    if split == "train":
      train, validation = datasets.split_positions(
        spec, [record.id for record in records], options
      )
      sizes["train"] = len(train)
      if validation:
        sizes["validation"] = len(validation)
  shown_source = options.source
  if shown_source != "records" and spec.name == "taxonli":
    shown_source = "built in"
  elif spec not in datasets.SHIPPED:
    shown_source = "own records"
  return {
    "dataset": spec.name,
    "source": shown_source,
    "parser": options.parser,
    "rationale_source": (
      datasets.rationale_source(spec.name, options)
      if "train" in sizes
      else None
    ),
    "license": spec.license,
    "vocabulary": vocabulary.name,
    "prefix": stats.prefix,
    "splits": splits,
    "extra_records": (
      _of_extra_records(spec.name, options) if options.extra_records else None
    ),
    "missing": missing,
    "after_splitting": {
      "split_policy": options.split_policy,
      "train_fraction": options.train_fraction,
      "rows": {name: sizes[name] for name in datasets.SPLITS if name in sizes},
    },
  }


def _of_extra_records(name: str, options: DataOptions) -> dict[str, Any]:
  """Where they are from, and how many there are of each kind."""
  counts = extra_records.count(datasets.load_extra_records(name, options))
  left_out = datasets.num_held_out_extra_records(name, options)
  return {"of": options.extra_records, **counts, "held_out_inputs": left_out}


def of_file(
  source: SourceFlags,
  stats: StatsFlags,
  records: Sequence[Record],
  problems: Sequence[Problem],
) -> dict[str, Any]:
  """All that `data stats` prints about a file of records, as JSON values.

  Args:
    source: names the file.
    stats: what is counted.
    records: of the file.
    problems: its lines that are none.
  """
  vocabulary = vocabularies.from_name(stats.vocabulary or "bytes")
  found = statistics.report_records(
    records, arithmetic_labels=stats.by_value
  ).to_dict()
  del found["by_parser"]
  found["malformed"] = len(problems)
  found["malformed_lines"] = [
    dataclasses.asdict(problem) for problem in problems[:SHOWN_PROBLEMS]
  ]
  found["tokens"] = statistics.token_lengths(
    records[: stats.limit], vocabulary, prefix=stats.prefix
  )
  return {
    "input": source.input,
    "vocabulary": vocabulary.name,
    "prefix": stats.prefix,
    "splits": {"all": found},
  }
