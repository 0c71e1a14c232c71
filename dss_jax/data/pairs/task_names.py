"""The registered names of tasks: `<dataset>_<method>`, put together and read.

`_teacher` is appended for the teacher's labels in place of the gold ones:
`svamp_dss`, `svamp_dss_teacher`.
"""

import difflib
import string
from typing import NamedTuple

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.data.pairs.subtasks import TEACHER_SUFFIX, Method

LABEL_SOURCES = ("gold", "teacher")

# The options that name a task, and the modules that register others.
TASK_NAME_FIELDS = (
  "DatasetConfig.mixture_or_task_name",
  "EvaluationConfig.tasks",
  "task",
  "module",
)


class TaskName(NamedTuple):
  """A registered name, taken apart."""

  dataset: str
  method: Method
  label_source: str

  def __str__(self) -> str:
    return task_name(self.dataset, self.method.name, self.label_source)


def task_name(dataset: str, method: str, label_source: str = "gold") -> str:
  suffix = TEACHER_SUFFIX if label_source == "teacher" else ""
  return f"{dataset}_{method}{suffix}"


def parse_task_name(name: str) -> TaskName | None:
  """Takes `"svamp_dss_teacher"` apart; None if it is not one of our names.

  The dataset must be known to `dss_jax.datasets`. Where two readings fit, the
  longer method wins (`x_rationale_then_label` is not `x_rationale_then` with
  method `label`).
  """
  label_source = "gold"
  base = name
  if base.endswith(TEACHER_SUFFIX):
    base, label_source = base.removesuffix(TEACHER_SUFFIX), "teacher"
  known = set(datasets.names())
  for method in sorted(subtasks.METHODS, key=len, reverse=True):
    dataset = base.removesuffix(f"_{method}")
    if dataset != base and dataset in known:
      return TaskName(dataset, subtasks.METHODS[method], label_source)
  return None


def get_task(name: str) -> TaskName:
  """Like `parse_task_name`, but raises UserError for an unknown name."""
  parsed = parse_task_name(name)
  if parsed is None:
    raise UserError(
      f"no task {name!r}: {similar_name_hint(name)}a name is DATASET_METHOD or"
      " DATASET_METHOD_teacher with a dataset of"
      f" {', '.join(datasets.names())} and a method of {', '.join(subtasks.METHODS)};"
      " other tasks must be registered by a module of yours",
      fields=TASK_NAME_FIELDS,
    )
  return parsed


def similar_name_hint(name: str) -> str:
  """`did you mean svamp_label? `, or nothing where no name is similar."""
  known = [
    task_name(dataset, method)
    for dataset in datasets.names()
    for method in subtasks.METHODS
  ]
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
  return f"did you mean {close[0]}? Else " if close else ""


def check_dataset_name(name: str) -> None:
  """Raises UserError unless `name` can head registered task names."""
  allowed = set(string.ascii_letters + string.digits + "_.:#")
  if not name or set(name) - allowed:
    raise UserError(
      f"{name!r} cannot name a dataset: SeqIO allows letters, digits and"
      " the characters _ . : # only."
    )
  for method in subtasks.METHODS:
    if name.endswith((f"_{method}", TEACHER_SUFFIX)):
      raise UserError(
        f"{name!r} cannot name a dataset: it ends like a task's name."
      )
