"""Fingerprints of SeqIO Tasks and Mixtures."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import seqio

from dss_jax.data.pairs import task_options
from dss_jax.data.seqio import task_description
from dss_jax.data.seqio.dss_task import DssTask
from dss_jax.data.seqio.providers import find_provider, output_vocabulary
from dss_jax.data.seqio.seqio_vocabularies import from_seqio
from dss_jax.data.seqio.task_reading import one_line_errors
from dss_jax.data.tokens import examples


def task_fingerprint(
  name: str,
  split: str,
  *,
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
) -> str:
  """Identifies the tokens of a Task or Mixture.

  Of our own it is the fingerprint they have without SeqIO: by the content of
  their records. Of others, and of SeqIO's caches, it is made of what the Tasks
  are defined by (`task_description.py`).
  """
  provider = find_provider(name, split)
  lengths = examples.check_feature_lengths(feature_lengths)
  if provider.own is not None and not use_cached:
    chosen = task_options.current()
    return examples.TaskSource.load(
      name,
      split,
      output_vocabulary(name),
      chosen.data,
      chosen.method,
      lengths,
    ).fingerprint()
  described = [
    [
      leaf.name,
      leaf.rate,
      _describe_task(leaf.task, split, use_cached),
    ]
    for leaf in provider.leaves
  ]
  return task_description.fingerprint(
    name, split, provider.paired, lengths, described
  )


def _describe_task(task: seqio.Task, split: str, use_cached: bool) -> list[Any]:
  """What decides a Task's tokens."""
  vocabulary_names = {
    name: [from_seqio(feature.vocabulary).name, feature.add_eos]
    for name, feature in task.output_features.items()
    if name in examples.FEATURES
  }
  described: list[Any] = [seqio.__version__, task.name, vocabulary_names]
  if isinstance(task, DssTask):
    chosen = task_options.current()
    data = dataclasses.replace(chosen.data, data_dir=None)
    described += [task.subtask, chosen.method, data]
    if not use_cached:
      described.append(task.rows_of.fingerprint(split, with_data=True))
  else:
    described += list(task.preprocessors)
  with one_line_errors(task.name):
    if use_cached and task.supports_caching:
      if isinstance(task, DssTask):
        task.check_cache(split)
      task.assert_cached()
      folder = pathlib.Path(str(task.cache_dir))
      paths = [str(path) for path in sorted(folder.glob(f"*{split}*"))]
      return [*described, task_description.files(paths)]
    source = task.source
    described.append(task_description.files(source.list_shards(split)))
  if isinstance(source, seqio.FunctionDataSource):
    return [*described, source._dataset_fn]
  if isinstance(source, seqio.TfdsDataSource):
    return [*described, str(source), source.splits]
  return [*described, source]
