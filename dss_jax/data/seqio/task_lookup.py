"""The Tasks of SeqIO: looked up, read with one-line errors, fingerprinted."""

import contextlib
import dataclasses
import inspect
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import task_names, task_options
from dss_jax.data.seqio import registration, task_description
from dss_jax.data.seqio.dss_task import DssTask
from dss_jax.data.seqio.seqio_vocabularies import from_seqio
from dss_jax.data.tokens import tokenization


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One Task of a Mixture: its name as a sub-task, and its rate."""

  name: str
  task: seqio.Task
  rate: float


@dataclasses.dataclass(frozen=True)
class Provider:
  """A Task or Mixture for one split, taken apart.

  Attributes:
    name: registered with SeqIO.
    split: one of its splits.
    leaves: its Tasks, each a sub-task.
    registered: the Task or Mixture itself.
    dss_name: the name's parts if the Tasks under it are those of dss_jax.
  """

  name: str
  split: str
  leaves: tuple[Leaf, ...]
  registered: Any
  dss_name: task_names.TaskName | None

  @property
  def paired(self) -> bool:
    return self.dss_name is not None and self.dss_name.method.paired


def find_provider(name: str, split: str) -> Provider:
  """Looks a name up.

  Raises:
    UserError: an unknown name, a split it lacks, or rates that cannot be.
  """
  registered = _registered(name)
  if split not in registered.splits:
    raise UserError(
      f"{name!r} has no split {split!r}; it has"
      f" {', '.join(sorted(registered.splits))}."
    )
  if isinstance(registered, seqio.Task):
    is_dss_task = isinstance(registered, DssTask)
    subtask = registered.subtask.name if is_dss_task else name
    leaves = (Leaf(subtask, registered, 1.0),)
    return Provider(name, split, leaves, registered, _dss_name(leaves, name))
  leaves = _mixed(registered, split)
  dss_name = _dss_name(leaves, name)
  if (
    dss_name is not None
  ):  # sub-tasks in the order of the method, by their names
    by_name = _dss_leaves(leaves)
    leaves = tuple(
      dataclasses.replace(by_name[subtask.name], name=subtask.name)
      for subtask in dss_name.method.subtasks
    )
  return Provider(name, split, leaves, registered, dss_name)


def _registered(name: str) -> Any:
  """SeqIO's Task or Mixture of this name."""
  registration.add_later_methods(name)
  if name in seqio.MixtureRegistry.names():
    return seqio.MixtureRegistry.get(name)
  if name in seqio.TaskRegistry.names():
    return seqio.TaskRegistry.get(name)
  raise UserError(
    f"SeqIO knows no Task or Mixture {name!r}:"
    f" {task_names.similar_name_hint(name)}name the module that"
    " registers it (dss_jax.tasks for those of dss_jax), or correct the name",
    fields=task_names.TASK_NAME_FIELDS,
  )


def _mixed(mixture: seqio.Mixture, split: str) -> tuple[Leaf, ...]:
  """The Tasks of a Mixture that have the split, with their rates."""
  tasks = [task for task in mixture.tasks if split in task.splits]
  try:
    rates = [float(mixture.get_rate(task)) for task in tasks]
  except (TypeError, ValueError) as error:
    raise UserError(
      f"the rates of Mixture {mixture.name!r} cannot be used: {error}"
    ) from error
  if not all(0 <= rate < float("inf") for rate in rates) or not any(rates):
    raise UserError(
      f"Mixture {mixture.name!r} has the rates {rates}; they must be at least"
      " 0 and not all 0."
    )
  return tuple(
    Leaf(task.name, task, rate) for task, rate in zip(tasks, rates, strict=True)
  )


def _dss_leaves(leaves: Sequence[Leaf]) -> dict[str, Leaf]:
  """The leaves that are Tasks of dss_jax, by the names of their sub-tasks."""
  return {
    leaf.task.subtask.name: leaf
    for leaf in leaves
    if isinstance(leaf.task, DssTask)
  }


def _dss_name(leaves: Sequence[Leaf], name: str) -> task_names.TaskName | None:
  """Our name, if it is one and nobody has put other Tasks under it."""
  parsed = task_names.parse_task_name(name)
  if parsed is None:
    return None
  wanted = {subtask.name for subtask in parsed.method.subtasks}
  is_ours = len(leaves) == len(wanted) and wanted == set(_dss_leaves(leaves))
  return parsed if is_ours else None


def output_vocabulary(name: str) -> vocabularies.Vocabulary:
  """The vocabulary that a Task's or Mixture's targets are written in."""
  provider = seqio.get_mixture_or_task(name)
  return from_seqio(provider.output_features["targets"].vocabulary)


# The accelerator is JAX's; TensorFlow only reads data, and would take most of
# its memory at the first operation. Too late if another project has used it.
with contextlib.suppress(RuntimeError):
  tf.config.set_visible_devices([], "GPU")


def read_task(
  task: seqio.Task,
  split: str,
  feature_lengths: Mapping[str, int],
  *,
  use_cached: bool,
  shuffle: bool = False,
  seed: int = 0,
  num_epochs: int | None = 1,
) -> tf.data.Dataset:
  """A Task's dataset; fails with one line."""
  for name in tokenization.FEATURES:
    if name not in task.output_features:
      raise UserError(
        f"Task {task.name!r} has no feature {name!r}; an encoder-decoder"
        " student needs Tasks with 'inputs' and 'targets'."
      )
  with one_line_errors(task.name):
    return task.get_dataset(
      dict(feature_lengths) or None,
      split=split,
      use_cached=use_cached,
      shuffle=shuffle,
      seed=seed if _takes_seed(task, use_cached) else None,
      num_epochs=num_epochs,
    )


def _takes_seed(task: seqio.Task, use_cached: bool) -> bool:
  """Whether SeqIO lets this Task's source be read with a seed."""
  source = task.source
  if use_cached or not isinstance(source, seqio.FunctionDataSource):
    return True
  return "seed" in inspect.signature(source._dataset_fn).parameters


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
  """Turns what TensorFlow and SeqIO raise about data into a UserError."""
  try:
    yield
  except UserError:
    raise
  except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(
      f"the data of Task {name!r} cannot be read: {lines[0]}"
    ) from error


def iter_examples(
  dataset: tf.data.Dataset, name: str
) -> Iterator[Mapping[str, Any]]:
  with one_line_errors(name):
    examples_read: Any = dataset.as_numpy_iterator()
    yield from examples_read


def token_ids(value: np.ndarray, task: seqio.Task) -> np.ndarray:
  if value.ndim != 1 or not np.issubdtype(value.dtype, np.integer):
    raise UserError(
      f"Task {task.name!r} gives {value.dtype} features of {value.ndim}"
      " dimensions; token ids of 1 dimension are needed."
    )
  return value.astype(np.int32)


def add_cache_dirs(folders: Sequence[str]) -> None:
  """Tells SeqIO where offline caches of Tasks lie."""
  seqio.add_global_cache_dirs(list(folders))


def task_fingerprint(
  name: str,
  split: str,
  *,
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
) -> str:
  """Identifies the tokens of a Task or Mixture.

  Those of dss_jax have the fingerprint that they have without SeqIO: by the
  content of their records. That of others, and of SeqIO's caches, is made of
  what the Tasks are defined by (`task_description.py`).
  """
  provider = find_provider(name, split)
  lengths = tokenization.check_feature_lengths(feature_lengths)
  if provider.dss_name is not None and not use_cached:
    chosen = task_options.current()
    return tokenization.TaskSource.load(
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
    if name in tokenization.FEATURES
  }
  described: list[Any] = [seqio.__version__, task.name, vocabulary_names]
  if isinstance(task, DssTask):
    chosen = task_options.current()
    data = dataclasses.replace(chosen.data, data_dir=None)
    described += [task.subtask, chosen.method, data]
    if not use_cached:
      described.append(task.task_records.fingerprint(split, with_data=True))
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
