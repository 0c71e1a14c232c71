"""Several teachers, each of them a sub-task: what TinyLLM does with two.

    several_teachers(("palm", "gpt-neox"))

is distilling step-by-step with the sub-tasks `label`, `rationale_palm` and
`rationale_gpt_neox`. A student that is asked by a teacher's prefix explains as
that teacher does, so teachers need not agree, and each has a rate and a weight
in the loss of its own (Tian et al., TinyLLM, WSDM 2025, arXiv 2402.04616).
"""

import re
from collections.abc import Mapping, Sequence

from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks

_FIELD = "several_teachers.teachers"
# Methods made here, which another configuration of this process may make anew:
# a sweep reads many.
_made: set[str] = set()


def several_teachers(
  teachers: Sequence[str],
  prefixes: Mapping[str, str] | None = None,
  paired: bool = False,
) -> str:
  """Makes a method of a label sub-task and one rationale sub-task a teacher.

  Args:
    teachers: the sources of the rationales, as records name them: "palm" and
      "gpt-neox" of the released data, otherwise what `dss-jax extract` called
      a teacher.
    prefixes: teacher -> what precedes the inputs of its sub-task; the others
      have "[NAME] ".
    paired: whether the examples of a record stay in one batch.

  Returns:
    The name of the method, made of the teachers' names, such as
    `dss_palm_gpt_neox`; its sub-tasks are `label`, `rationale_palm`, ....

  Raises:
    UserError: for no teacher, one named twice, a prefix of nobody, or another
      method of that name.
  """
  names = {teacher: _plain(teacher) for teacher in teachers}
  if isinstance(teachers, str) or not names or "" in names.values():
    raise UserError(
      f"teachers is {teachers!r}; it must be a list of the sources of"
      " rationales, such as ('palm', 'gpt-neox')",
      fields=_FIELD,
    )
  if len(set(names.values())) < len(teachers):
    raise UserError(
      f"teachers is {teachers!r}; the names of two sub-tasks would be the same:"
      f" {', '.join(map(_plain, teachers))}",
      fields=_FIELD,
    )
  prefixes = dict(prefixes or {})
  for teacher in prefixes:
    if teacher not in names:
      raise UserError(
        f"prefixes has one of {teacher!r}, which is none of the teachers"
        f" {', '.join(names)}",
        fields="several_teachers.prefixes",
      )
  method = subtasks.Method(
    "_".join(["dss_paired" if paired else "dss", *names.values()]),
    (
      subtasks.LABEL,
      *(
        subtasks.SubTask(
          f"rationale_{name}",
          input_format=_literal(prefixes.get(teacher, f"[{teacher}] "))
          + "{input}",
          target_format="{rationale}",
          rationale_source=teacher,
        )
        for teacher, name in names.items()
      ),
    ),
    paired=paired,
  )
  # Single sub-tasks are evaluated by name.
  single = [subtasks.Method(each.name, (each,)) for each in method.subtasks]
  _forget_others(method)
  for each in (method, *single):
    if each.name not in subtasks.METHODS:
      _made.add(each.name)
    subtasks.register_method(each)
  return method.name


def _forget_others(method: subtasks.Method) -> None:
  """Forgets what was made here with other sub-tasks of the same names."""
  wanted = {subtask.name: subtask for subtask in method.subtasks}
  for name in _made & subtasks.METHODS.keys():
    own = subtasks.METHODS[name].subtasks
    if any(wanted.get(each.name, each) != each for each in own):
      del subtasks.METHODS[name]


def _plain(teacher: str) -> str:
  """A teacher's name as part of a task's: letters, digits and _ only."""
  return re.sub(r"[^A-Za-z0-9]+", "_", str(teacher)).strip("_")


def _literal(text: str) -> str:
  """Text as a template has it."""
  return text.replace("{", "{{").replace("}", "}}")
