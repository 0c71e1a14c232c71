"""Registering the Tasks and Mixtures of a dataset with SeqIO."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import (
  dataset_registration,
  subtasks,
  task_names,
  task_options,
)
from dss_jax.data.seqio.dss_task import DssTask
from dss_jax.data.seqio.task_records import TaskRecords


def _rate(task: seqio.Task, *, method: str, subtask: str) -> float:
  """A mixing rate, read from the options when a mixture is used."""
  del task
  chosen = subtasks.METHODS[method]
  names = [known.name for known in chosen.subtasks]
  return chosen.rates(task_options.current().method)[names.index(subtask)]


# Registered names -> what they were registered for.
_REGISTERED: dict[str, Any] = {}


def add_dss_tasks(
  name: str,
  source: dataset_registration.Source | datasets.DatasetSpec | None = None,
  *,
  field_mapping: Mapping[str, Any] | None = None,
  skip_malformed: bool = False,
  metric_names: Sequence[str] = ("accuracy",),
  labels: Sequence[str] | None = None,
  vocabulary: str | None = None,
  data_options: datasets.DataOptions | None = None,
) -> tuple[str, ...]:
  """Registers all Tasks and Mixtures of a dataset, with and without TensorFlow.

  The same call again changes nothing. Nothing is read before a dataset is
  asked for.

  Args:
    name: heads the registered names.
    source: None for a dataset that dss_jax knows; else files, records or
      callables, as `dataset_registration.register_dataset` takes them.
    field_mapping: for files; record field -> key of the file, or one such
      mapping per split.
    skip_malformed: for files; leave out malformed lines instead of stopping.
    metric_names: metrics of the label; the first decides what is correct.
    labels: all labels there are, if that is known.
    vocabulary: the vocabulary where a configuration names none.
    data_options: if given, the source is read by these options, whatever the
      configuration says (it still decides on splits and fractions).

  Returns:
    The registered names.

  Raises:
    UserError: a name that is taken or cannot be used.
  """
  dataset_registration.register_dataset(
    name,
    source,
    field_mapping=field_mapping,
    skip_malformed=skip_malformed,
    metrics=metric_names,
    labels=labels,
    vocabulary=vocabulary,
  )
  providers = _providers(name, data_options)
  missing = [known for known in providers if not _is_registered(known)]
  for provider_name in missing:
    if provider_name in _seqio_names():
      raise UserError(
        f"SeqIO already has a task or mixture named {provider_name!r};"
        f" register dataset {name!r} under another name."
      )
  for provider_name, described in providers.items():
    if provider_name in missing:
      continue
    if _REGISTERED[provider_name] != described:
      raise UserError(
        f"{provider_name!r} is already registered with other arguments of"
        " add_dss_tasks (data_options); choose another name."
      )
  for provider_name in missing:
    _add(provider_name, *providers[provider_name])
    _REGISTERED[provider_name] = providers[provider_name]
  return tuple(providers)


def add_later_methods(name: str) -> None:
  """Registers a task of ours whose method is younger than its dataset's tasks.

  A configuration may make a method after modules have registered their tasks.
  """
  task = task_names.parse_task_name(name)
  if task is None or name in _seqio_names():
    return
  for task_records, _ in _REGISTERED.values():
    if task_records.dataset == task.dataset:
      add_dss_tasks(task.dataset, data_options=task_records.pinned)
      return


def _seqio_names() -> set[str]:
  return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _is_registered(name: str) -> bool:
  """Whether we have registered `name`, and nobody has removed it since."""
  return name in _REGISTERED and name in _seqio_names()


def _providers(
  dataset: str, pinned: datasets.DataOptions | None
) -> dict[str, tuple[TaskRecords, subtasks.Method | subtasks.SubTask]]:
  """Names to register -> what they are; sub-tasks come before mixtures."""
  tasks: dict[str, Any] = {}
  mixtures: dict[str, Any] = {}
  for label_source in task_names.LABEL_SOURCES:
    for method in subtasks.METHODS.values():
      for subtask in method.subtasks:
        name = task_names.task_name(dataset, subtask.name, label_source)
        task_records = TaskRecords(
          dataset, label_source, subtask.rationale_source, pinned
        )
        tasks[name] = (task_records, subtask)
      if method.is_mixture:
        name = task_names.task_name(dataset, method.name, label_source)
        mixtures[name] = (
          TaskRecords(dataset, label_source, None, pinned),
          method,
        )
  return {**tasks, **mixtures}


def _add(
  name: str, task_records: TaskRecords, what: subtasks.Method | subtasks.SubTask
) -> None:
  if isinstance(what, subtasks.SubTask):
    seqio.TaskRegistry.add_provider(name, DssTask(name, task_records, what))
    return
  seqio.MixtureRegistry.add(
    name,
    [
      (
        task_names.task_name(
          task_records.dataset, subtask.name, task_records.label_source
        ),
        functools.partial(_rate, method=what.name, subtask=subtask.name),
      )
      for subtask in what.subtasks
    ],
  )
