"""The examples of a Task or Mixture as token arrays on disk."""

import os
import shutil
from collections.abc import Mapping

import numpy as np

from dss_jax.data.pairs import task_options
from dss_jax.data.seqio.dss_task import DssTask
from dss_jax.data.seqio.fingerprints import task_fingerprint
from dss_jax.data.seqio.providers import Leaf, find_provider, output_vocabulary
from dss_jax.data.seqio.task_reading import iter_examples, read_task, token_ids
from dss_jax.data.tokens import examples
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


def _subtask_arrays(
  leaf: Leaf,
  split: str,
  feature_lengths: Mapping[str, int],
  use_cached: bool,
) -> TokenArrays:
  """The examples of one Task, in their order (ours: in that of records)."""
  dataset = read_task(leaf.task, split, feature_lengths, use_cached=use_cached)
  inputs, targets, records, order, weights = [], [], [], [], []
  for example in iter_examples(dataset, leaf.task.name):
    if not len(example["inputs"]) or not len(example["targets"]):
      continue  # nothing to read or nothing to write
    inputs.append(token_ids(example["inputs"], leaf.task))
    targets.append(token_ids(example["targets"], leaf.task))
    is_own = isinstance(leaf.task, DssTask)
    records.append(int(example["record_id"]) if is_own else len(records))
    order.append(int(example["rationale_index"]) if is_own else 0)
    weights.append(float(example["weight"]) if is_own else 1.0)
  # Caches hold examples in any order.
  places = np.lexsort((order, records)) if records else []
  return TokenArrays.from_lists(
    leaf.name,
    [inputs[i] for i in places],
    [targets[i] for i in places],
    record_ids=[records[i] for i in places],
    weights=[weights[i] for i in places],
  )


def materialize(
  name: str,
  split: str,
  *,
  cache_dir: str | os.PathLike[str],
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
  refresh: bool = False,
) -> ExampleSet:
  """The token arrays of a Task or Mixture, from `cache_dir` if they are there.

  Args:
    name: registered with SeqIO, by us or by another project.
    split: one of its splits.
    cache_dir: where token arrays are kept, one folder per fingerprint.
    feature_lengths: {"inputs": ..., "targets": ...} in tokens.
    use_cached: read SeqIO's offline cache instead of the source.
    refresh: make the arrays anew even if they are there.

  Raises:
    UserError: an unknown name or split, unreadable data, a cache that does not
      fit, features that are no token ids.
  """
  provider = find_provider(name, split)
  lengths = examples.check_feature_lengths(feature_lengths)
  fingerprint = task_fingerprint(
    name, split, feature_lengths=lengths, use_cached=use_cached
  )

  def build() -> ExampleSet:
    arrays = tuple(
      _subtask_arrays(leaf, split, lengths, use_cached)
      for leaf in provider.leaves
    )
    highest = max(
      (int(each.record_ids.max()) for each in arrays if len(each)), default=-1
    )
    num_records = highest + 1
    if provider.own is not None and not use_cached:
      num_records = examples.count_records(
        provider.own.dataset, split, task_options.current().data
      )
    return ExampleSet(
      subtasks=arrays,
      rates=tuple(leaf.rate for leaf in provider.leaves),
      paired=provider.paired,
      num_records=num_records,
      fingerprint=fingerprint,
      vocabulary=output_vocabulary(name).name,
      task_name=name,
      split=split,
    )

  if refresh:
    folder = examples.example_folder(cache_dir, name, split, fingerprint)
    shutil.rmtree(folder, ignore_errors=True)
  return examples.open_or_build(cache_dir, name, split, fingerprint, build)
