"""A SeqIO Task or Mixture taken apart: its sub-tasks and their rates."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import seqio

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.data.seqio.dss_task import DssTask
from dss_jax.data.seqio.seqio_vocabularies import from_seqio


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
    own: the name's parts if it is ours, with our Tasks under it.
  """

  name: str
  split: str
  leaves: tuple[Leaf, ...]
  registered: Any
  own: subtasks.TaskName | None

  @property
  def paired(self) -> bool:
    return self.own is not None and self.own.method.paired


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
    is_own = isinstance(registered, DssTask)
    subtask = registered.subtask.name if is_own else name
    leaves = (Leaf(subtask, registered, 1.0),)
    return Provider(name, split, leaves, registered, _own_name(leaves, name))
  leaves = _mixed(registered, split)
  own = _own_name(leaves, name)
  if own is not None:  # sub-tasks in the order of the method, by their names
    by_name = _own_leaves(leaves)
    leaves = tuple(
      dataclasses.replace(by_name[subtask.name], name=subtask.name)
      for subtask in own.method.subtasks
    )
  return Provider(name, split, leaves, registered, own)


def _registered(name: str) -> Any:
  """SeqIO's Task or Mixture of this name."""
  if name in seqio.MixtureRegistry.names():
    return seqio.MixtureRegistry.get(name)
  if name in seqio.TaskRegistry.names():
    return seqio.TaskRegistry.get(name)
  raise UserError(
    f"SeqIO knows no Task or Mixture {name!r}:"
    f" {subtasks.similar_name_hint(name)}name the module that"
    " registers it with --module (dss_jax.tasks for those of dss_jax), or"
    " correct MIXTURE_OR_TASK_NAME, EVAL_TASKS or --task."
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


def _own_leaves(leaves: Sequence[Leaf]) -> dict[str, Leaf]:
  """Those of our own Tasks, by the names of their sub-tasks."""
  return {
    leaf.task.subtask.name: leaf
    for leaf in leaves
    if isinstance(leaf.task, DssTask)
  }


def _own_name(leaves: Sequence[Leaf], name: str) -> subtasks.TaskName | None:
  """Our name, if it is one and nobody has put other Tasks under it."""
  parsed = subtasks.parse_task_name(name)
  if parsed is None:
    return None
  wanted = {subtask.name for subtask in parsed.method.subtasks}
  is_ours = len(leaves) == len(wanted) and wanted == set(_own_leaves(leaves))
  return parsed if is_ours else None


def output_vocabulary(name: str) -> vocabularies.Vocabulary:
  """The vocabulary that a Task's or Mixture's targets are written in."""
  provider = seqio.get_mixture_or_task(name)
  return from_seqio(provider.output_features["targets"].vocabulary)
