"""Datasets of other projects: from records, callables or files, by one call.

    register_dataset("mine", {"train": "train.jsonl", "test": "test.jsonl"})

After it `mine_dss` and its sisters can be trained by name, without
TensorFlow. `dss_jax.data.tasks.add_dss_tasks` does the same and registers
them with SeqIO as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import task_names
from dss_jax.datasets import record_files

# The data of a dataset: per split, or of the training split alone.
Source = Mapping[str, record_files.SplitData] | record_files.SplitData


def register_dataset(
  name: str,
  source: Source | datasets.DatasetSpec | None = None,
  *,
  field_mapping: Mapping[str, Any] | None = None,
  skip_malformed: bool = False,
  metrics: Sequence[str] = ("accuracy",),
  labels: Sequence[str] | None = None,
  vocabulary: str | None = None,
) -> datasets.DatasetSpec:
  """Makes a dataset known under `name`; the same call again changes nothing.

  Nothing is read until the data is needed.

  Args:
    name: heads the names of its tasks: `<name>_dss` and so on.
    source: split -> file (.jsonl, .csv, .tsv, .parquet), records, or callable
      that returns records; data that is not a mapping is the training split.
      Validation data is cut from training data where there is none. None for
      a dataset that dss_jax knows.
    field_mapping: for files; record field -> key of the file, or one such
      mapping per split.
    skip_malformed: for files; leave out malformed lines instead of stopping.
    metrics: metrics of the label (see `dss_jax.datasets.metrics`); the first decides
      what is correct.
    labels: all labels there are, if that is known.
    vocabulary: the vocabulary where a configuration names none.

  Raises:
    UserError: a name that cannot be used, or is used by another dataset.
  """
  if source is None:
    return datasets.get(name)
  task_names.check_dataset_name(name)
  if isinstance(source, datasets.DatasetSpec):
    if source.name != name:
      raise UserError(
        f"a dataset named {source.name!r} cannot be registered as {name!r}."
      )
    spec = source
  else:
    by_split: dict[str, Any] = {"train": source}
    if isinstance(source, Mapping):
      by_split = {str(split): data for split, data in source.items()}
    spec = datasets.DatasetSpec(
      name=name,
      load=datasets.RecordFiles(
        by_split, field_mapping and dict(field_mapping), skip_malformed
      ),
      metrics=tuple(metrics),
      labels=None if labels is None else tuple(labels),
      source_splits=tuple(by_split),
    )
  datasets.register(spec)
  if vocabulary is not None:
    vocabularies.set_default(name, vocabulary)
  return spec
