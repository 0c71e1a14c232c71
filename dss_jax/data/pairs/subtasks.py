"""A method is a list of sub-tasks; a sub-task turns records into text pairs.

    record + SubTask -> (inputs, targets, weight)

Standard fine-tuning writes the label. Distilling step-by-step (arXiv
2305.02301, section 3.2) writes the label for one prefix and the rationale for
another. The alternatives it is compared with put both in one target, or the
rationale into the input. Here each of them is an entry of `METHODS`, never
a branch in the trainer. Both paths to tokens use these definitions: the direct
one (`data/tokens/tokenization.py`) and SeqIO (`data/seqio`).
"""

import dataclasses
import functools
import math
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dss_jax.base import checks
from dss_jax.base.errors import UserError

RATIONALE_FILTERS = ("non_empty", "all", "agrees")
RATIONALE_WEIGHTS = ("as_given", "equal")
UNREADABLE_LABELS = ("leave_out", "blank")
TEACHER_SUFFIX = "_teacher"

# What a record offers to a template, and the texts that options offer.
_RECORD_FIELDS = frozenset({"input", "label", "rationale"})
_OPTION_FIELDS = frozenset(
  {
    "label_prefix",
    "rationale_prefix",
    "label_separator",
    "rationale_separator",
  }
)


@dataclasses.dataclass(frozen=True)
class MethodOptions:
  """The choices of a method that a configuration may change.

  Attributes:
    label_prefix: precedes the input of the `label` sub-task. The paper's; the
      official code has "predict: ".
    rationale_prefix: precedes the input of the `rationale` sub-task. The
      official code has "explain: ".
    label_separator: precedes the label where a target holds a rationale too.
    rationale_separator: precedes the rationale where it follows other text.
    rationale_filter: which rationales are trained on. "non_empty": those with
      text. "agrees": those whose teacher reached the gold label, as the
      dataset's metric compares labels. "all": blank ones too, as in the
      official code, which teaches the student to write nothing.
    max_rationale_tokens: rationales with more tokens are left out (not cut);
      None for no limit.
    rationale_fraction: share of the training records whose rationales are
      trained on, from 0 to 1; labels are those of all. The share is taken by
      hashes of the records' ids, so that a smaller one is part of a larger.
    rationale_weights: what a rationale counts for in the loss. "as_given": its
      weight in the record, where votes leave their shares. "equal": 1.
    min_rationale_weight: rationales of a lower weight are left out, and always
      those of weight 0.
    unreadable_labels: what the teacher's label is where none could be read of
      its answers. "leave_out": there is none. "blank": an empty text, as in the
      official code, which teaches the student to write nothing.
    rates: how often a mixture draws from each sub-task, by its name; those not
      named have rate 1. Relative numbers; they set the share of compute, not
      the weight in the loss.

  Raises:
    UserError: a value outside of the above.
  """

  label_prefix: str = "[label] "
  rationale_prefix: str = "[rationale] "
  label_separator: str = " [label] "
  rationale_separator: str = " [rationale] "
  rationale_filter: str = "non_empty"
  max_rationale_tokens: int | None = None
  rationale_fraction: float = 1.0
  rationale_weights: str = "as_given"
  min_rationale_weight: float = 0.0
  unreadable_labels: str = "leave_out"
  rates: Mapping[str, float] | None = None

  def __post_init__(self):
    for name, allowed in (
      ("rationale_filter", RATIONALE_FILTERS),
      ("rationale_weights", RATIONALE_WEIGHTS),
      ("unreadable_labels", UNREADABLE_LABELS),
    ):
      checks.one_of(f"MethodOptions.{name}", getattr(self, name), allowed)
    checks.in_range(
      "MethodOptions.rationale_fraction", self.rationale_fraction, 0, 1
    )
    checks.in_range(
      "MethodOptions.min_rationale_weight", self.min_rationale_weight, 0
    )
    checks.in_range(
      "MethodOptions.max_rationale_tokens",
      self.max_rationale_tokens,
      1,
      or_none=True,
      whole=True,
    )
    for name in ("label_separator", "rationale_separator"):
      if not getattr(self, name).strip():
        raise UserError(
          f"{name} is {getattr(self, name)!r}; it must not be blank, or labels"
          " could not be separated from rationales",
          fields=f"MethodOptions.{name}",
        )

  def texts(self) -> dict[str, str]:
    """The values of the template fields that options provide."""
    return {name: getattr(self, name) for name in sorted(_OPTION_FIELDS)}


class Part(NamedTuple):
  """A piece of a template: fixed text, or one of a record's fields."""

  text: str
  is_field: bool


@dataclasses.dataclass(frozen=True)
class SubTask:
  """How a record becomes a text-to-text example.

  Templates may hold `{input}`, `{label}`, `{rationale}` and the names of the
  four texts of `MethodOptions`, such as `{label_prefix}`.

  Attributes:
    name: names the sub-task in losses, weights and rates.
    input_format: template of what the student reads.
    target_format: template of what it writes.
    rationale_source: if given, only rationales of this source count, so that
      several teachers can be one sub-task each.

  Raises:
    UserError: a template with an unknown field.
  """

  name: str
  input_format: str = "{input}"
  target_format: str = "{label}"
  rationale_source: str | None = None

  def __post_init__(self):
    for template in (self.input_format, self.target_format):
      for field in _fields(template):
        if field not in _RECORD_FIELDS | _OPTION_FIELDS:
          raise UserError(
            f"the template {template!r} of sub-task {self.name!r} has the"
            f" field {field!r}; allowed:"
            f" {', '.join(sorted(_RECORD_FIELDS | _OPTION_FIELDS))}."
          )
    if "label" in _fields(self.input_format):
      raise UserError(
        f"the input of sub-task {self.name!r} would show the label."
      )

  @functools.cached_property
  def uses_rationale(self) -> bool:
    return "rationale" in _fields(self.input_format + self.target_format)

  @functools.cached_property
  def uses_label(self) -> bool:
    """Whether the target holds the label, so that accuracy can be scored."""
    return "label" in _fields(self.target_format)

  @functools.cached_property
  def writes_rationale(self) -> bool:
    """Whether the target holds a rationale."""
    return "rationale" in _fields(self.target_format)

  def input_parts(self, options: MethodOptions) -> list[Part]:
    return _parts(self.input_format, options)

  def target_parts(self, options: MethodOptions) -> list[Part]:
    return _parts(self.target_format, options)


def _fields(template: str) -> list[str]:
  return [
    field
    for _, field, _, _ in string.Formatter().parse(template)
    if field is not None
  ]


def _parts(template: str, options: MethodOptions) -> list[Part]:
  """The template with the options' texts filled in, fixed text merged."""
  texts = options.texts()
  parts: list[Part] = []
  for literal, field, _, _ in string.Formatter().parse(template):
    fixed = literal + texts.get(field or "", "")
    if fixed:
      if parts and not parts[-1].is_field:
        fixed = parts.pop().text + fixed
      parts.append(Part(fixed, is_field=False))
    if field in _RECORD_FIELDS:
      parts.append(Part(field, is_field=True))
  return parts


def fill(parts: Sequence[Part], fields: Mapping[str, str]) -> str:
  """The text of a template for one record."""
  return "".join(fields[p.text] if p.is_field else p.text for p in parts)


@dataclasses.dataclass(frozen=True)
class Method:
  """A way to train a student: the sub-tasks it learns together.

  Attributes:
    name: the part of a registered name after the dataset.
    subtasks: the sub-tasks, in the order of their weights.
    paired: whether the examples of a record stay in one batch.
  """

  name: str
  subtasks: tuple[SubTask, ...]
  paired: bool = False

  @property
  def is_mixture(self) -> bool:
    return len(self.subtasks) > 1

  def rates(self, options: MethodOptions) -> tuple[float, ...]:
    """The rate of each sub-task.

    Raises:
      UserError: a rate that is not a number of at least 0, or of a sub-task
        that this method lacks, or no rate above 0.
    """
    if not self.is_mixture:
      return (1.0,)
    rates = dict(options.rates or {})
    names = [subtask.name for subtask in self.subtasks]
    for name, rate in rates.items():
      if name not in names:
        raise UserError(
          f"rates name the sub-task {name!r}, which method {self.name!r}"
          f" lacks; it has {', '.join(names)}",
          fields="MethodOptions.rates",
        )
      if (
        isinstance(rate, bool)
        or not isinstance(rate, (int, float))
        or not (math.isfinite(rate) and rate >= 0)
      ):
        raise UserError(
          f"the rate of sub-task {name!r} is {rate!r}; it must be a finite"
          " number of at least 0",
          fields="MethodOptions.rates",
        )
    values = tuple(float(rates.get(name, 1.0)) for name in names)
    if not any(values):
      raise UserError(
        f"all rates of method {self.name!r} are 0; at least one sub-task"
        " must be drawn from",
        fields="MethodOptions.rates",
      )
    return values


STANDARD = SubTask("standard")
LABEL = SubTask("label", input_format="{label_prefix}{input}")
RATIONALE = SubTask(
  "rationale",
  input_format="{rationale_prefix}{input}",
  target_format="{rationale}",
)
RATIONALE_THEN_LABEL = SubTask(
  "rationale_then_label",
  target_format="{rationale}{label_separator}{label}",
)
LABEL_THEN_RATIONALE = SubTask(
  "label_then_rationale",
  target_format="{label}{rationale_separator}{rationale}",
)
RATIONALE_AS_INPUT = SubTask(
  "rationale_as_input",
  input_format="{input}{rationale_separator}{rationale}",
)

METHODS: dict[str, Method] = {
  method.name: method
  for method in (
    Method("standard", (STANDARD,)),
    Method("label", (LABEL,)),
    Method("rationale", (RATIONALE,)),
    Method("dss", (LABEL, RATIONALE)),
    Method("dss_paired", (LABEL, RATIONALE), paired=True),
    Method("rationale_then_label", (RATIONALE_THEN_LABEL,)),
    Method("label_then_rationale", (LABEL_THEN_RATIONALE,)),
    Method("rationale_as_input", (RATIONALE_AS_INPUT,)),
  )
}


def register_method(method: Method) -> None:
  """Adds a method of another project; the same one again changes nothing.

  Tasks of datasets registered afterwards include it. Its single sub-tasks
  need methods of their own names, for evaluation.

  Raises:
    UserError: the name is taken by another method, or not a plain name.
  """
  known = METHODS.get(method.name)
  if known == method:
    return
  if known is not None:
    raise UserError(f"the method {method.name!r} exists with other sub-tasks.")
  if not method.name.isidentifier() or method.name.endswith(TEACHER_SUFFIX):
    raise UserError(
      f"{method.name!r} cannot name a method: letters, digits and _ only, and"
      f" not ending in {TEACHER_SUFFIX!r}."
    )
  # A sub-task is a SeqIO Task of its name: one name, one meaning.
  named = {
    subtask.name: subtask
    for other in METHODS.values()
    for subtask in other.subtasks
  }
  for subtask in method.subtasks:
    if named.setdefault(subtask.name, subtask) != subtask:
      raise UserError(
        f"the sub-task {subtask.name!r} of method {method.name!r} exists with"
        " another definition."
      )
  METHODS[method.name] = method
