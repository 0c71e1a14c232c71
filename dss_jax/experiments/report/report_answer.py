"""What a report found, in plain words: a paragraph for each dataset."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

from dss_jax.datasets.options import CONTROLS
from dss_jax.experiments.report import (
  content_tables,
  report_statistics,
  report_words,
  run_groups,
  teacher_answer,
)
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_savings import Saving
from dss_jax.experiments.report.report_statistics import (
  GroupComparison,
  GroupRow,
)
from dss_jax.experiments.report.report_tables import shown
from dss_jax.experiments.report.run_groups import Series
from dss_jax.experiments.report.teacher_comparisons import TeacherComparison

_MAIN_METHOD = "dss"


@dataclasses.dataclass(frozen=True)
class Finding:
  """What was found on a dataset.

  Attributes:
    dataset: its name.
    helps: whether the method that the report is about is better than
      fine-tuning (True) or worse (False), by the interval; None where neither
      is shown, or nothing is compared with fine-tuning.
    beats_teacher: whether a student beats the teacher, as decided on
      validation; None where it is not decided. What test says of that student
      stands beside it in `verdict`.
    verdict: one sentence.
    text: how much, and how sure.
    cautions: what makes it less sure; may be empty.
  """

  dataset: str
  helps: bool | None
  beats_teacher: bool | None
  verdict: str
  text: str
  cautions: str


def findings(content: Content) -> list[Finding]:
  """One for each dataset."""
  return [_of_dataset(content, dataset) for dataset in content.datasets]


def left_out(content: Content) -> str:
  """A sentence on the runs that are not in the report; "" if there are none."""
  counts = collections.Counter(each.kind for each in content.left_out)
  if not counts:
    return ""
  listed = ", ".join(f"{number} {kind}" for kind, number in counts.items())
  number = len(content.left_out)
  runs = (
    f"{report_words.count(number, 'more run')} {'is' if number == 1 else 'are'}"
  )
  return f"{runs} not part of this report: {listed}."


def is_control(series: Series) -> bool:
  """Whether its rationales are made not to help, such as shuffled ones."""
  return _control(series) is not None


def _control(series: Series) -> str | None:
  """The name of a control, from its source or the setting that makes it."""
  names = [series.rationale_source.rpartition(" ")[2]]
  names += [
    value.strip("'\"")
    for name, value in series.variant
    if name.endswith("_control")
  ]
  return next((n for n in names if n in CONTROLS and n != "none"), None)


def _of_dataset(content: Content, dataset: str) -> Finding:
  rows = content.of_dataset(dataset)
  compared = [
    each for each in content.comparisons if each.group.series.dataset == dataset
  ]
  main = headline(compared)
  helps = None
  if main is not None and _has_baseline(main) and not _at_chance(rows, main):
    helps = True if main.result.low > 0 else None
    helps = False if main.result.high < 0 else helps
  decided = [
    each
    for each in content.against_teacher
    if each.group.series.dataset == dataset and each.beats is not None
  ]
  winner = teacher_answer.smallest_winner(decided)
  return Finding(
    dataset,
    helps,
    winner is not None if decided else None,
    _verdict(dataset, compared, helps, bool(decided), winner),
    " ".join(
      [
        *_help(content, dataset, rows, compared),
        *_data_saving(content, dataset),
        *teacher_answer.sentences(content, dataset),
      ]
    ),
    " ".join(_cautions(rows, compared)),
  )


def _verdict(
  dataset: str,
  compared: Sequence[GroupComparison],
  helps: bool | None,
  is_decided: bool,
  winner: TeacherComparison | None,
) -> str:
  main = headline(compared)
  if main is None:
    return f"On {dataset}, no methods are compared."
  if winner is not None:
    test = winner.test
    teacher = (
      "on validation a student beats the teacher (on test"
      f" {report_words.signed(test.difference)} points, {report_words.signed(test.low)} to"
      f" {report_words.signed(test.high)})"
    )
  elif is_decided:
    teacher = "no student is shown to beat the teacher"
  else:
    teacher = "whether a student beats the teacher is not known"
  if not _has_baseline(main):
    return f"On {dataset} there are no runs of fine-tuning to compare with; {teacher}."
  method = report_words.capital(
    run_groups.method_name(main.group.series.method)
  )
  does = {
    True: "helps",
    False: "does harm",
    None: "is not shown to help or to harm",
  }[helps]
  sizes = _elsewhere(compared, main, helps)
  with_sizes = f" with {main.group.examples:,} records" if sizes else ""
  return f"{method} {does} on {dataset}{with_sizes}{sizes}; {teacher}."


def _elsewhere(
  compared: Sequence[GroupComparison],
  main: GroupComparison,
  helps: bool | None,
) -> str:
  """With how many other records the same student shows something else."""
  others = [
    each
    for each in compared
    if each.group.series == main.group.series
    and each.baseline.series == main.baseline.series
    and each.group.student == main.group.student
  ]
  found = {
    "helps": [each for each in others if each.result.low > 0 and not helps],
    "does harm": [
      each for each in others if each.result.high < 0 and helps is not False
    ],
  }
  return "".join(
    f", and {does} with"
    f" {report_words.listed(f'{each.group.examples:,}' for each in several)}"
    for does, several in found.items()
    if several
  )


# ------------------------------------------------------------- does it help?


def _help(
  content: Content,
  dataset: str,
  rows: Sequence[GroupRow],
  compared: Sequence[GroupComparison],
) -> list[str]:
  main = headline(compared)
  if main is None:
    return [_nothing_compared(content, dataset, rows)]
  group, result = main.group, main.result
  method = run_groups.method_name(group.series.method)
  baseline = run_groups.method_name(main.baseline.series.method)
  sentences = [
    f"With {report_words.setting(group)}, {method} is"
    f" {report_words.how_good(result.difference)} {baseline}"
    f" (95 % interval {report_words.signed(result.low)} to {report_words.signed(result.high)};"
    f" {report_words.count(result.seeds, 'seed')}, {result.items:,} test items"
    f"{_p(main)}).",
  ]
  if _at_chance(rows, main):
    sentences.append(
      "Both are at chance, so that this says nothing about either: train longer,"
      " with more data, or a larger student."
    )
  elif result.low <= 0 <= result.high and math.isfinite(result.detectable):
    sentences.append(
      f"A difference of less than {100 * result.detectable:.1f} points would"
      " often be missed with so many seeds and items."
    )
  same = [
    each
    for each in compared
    if each.group.series.method == group.series.method
    and not is_control(each.group.series)
  ]
  if len(same) > 1:
    above = sum(each.result.low > 0 for each in same)
    below = sum(each.result.high < 0 for each in same)
    sentences.append(
      f"Of {len(same)} settings compared, the interval lies above 0 in {above},"
      f" below 0 in {below}, and holds 0 in {len(same) - above - below}."
    )
  return [*sentences, *_controls(compared, main)]


def _at_chance(rows: Sequence[GroupRow], main: GroupComparison) -> bool:
  """Whether all runs of both groups are at chance."""
  both = [row for row in rows if row.group in (main.group, main.baseline)]
  return all(all(row.summary.at_chance) for row in both)


def headline(compared: Sequence[GroupComparison]) -> GroupComparison | None:
  """The comparison that a report begins with; None if there is none.

  Fixed beforehand, so that no result chooses it: a method against fine-tuning,
  distilling step-by-step with gold labels if it is there, the most training
  records, then the largest student.
  """
  candidates = [each for each in compared if not is_control(each.group.series)]
  return max(
    candidates,
    key=lambda each: (
      _has_baseline(each),
      each.group.series.method == _MAIN_METHOD,
      each.group.series.label_source == "gold",
      each.group.examples or 0,
      each.group.parameters or 0,
    ),
    default=None,
  )


def _has_baseline(each: GroupComparison) -> bool:
  """Whether something is compared with fine-tuning."""
  return each.baseline.series.method == report_statistics.BASELINE


def _controls(
  compared: Sequence[GroupComparison], main: GroupComparison
) -> list[str]:
  """What controls say in the setting of the first comparison."""
  return [
    f"With {_control(each.group.series)} rationales"
    f" the difference is {report_words.signed(each.result.difference)} points"
    f" ({report_words.signed(each.result.low)} to {report_words.signed(each.result.high)})."
    for each in compared
    if is_control(each.group.series)
    and each.group.examples == main.group.examples
    and each.group.student == main.group.student
  ]


def _nothing_compared(
  content: Content, dataset: str, rows: Sequence[GroupRow]
) -> str:
  if any(a.series.dataset == dataset for a, _ in content.unpaired):
    return (
      "No two methods have a seed in common: train them with the same seeds."
    )
  best = max(rows, key=lambda row: row.summary.mean)
  name = content.name(best.group.series)
  return (
    "No two methods have runs with the same student and data. The best setting"
    f" is {name} with {report_words.setting(best.group)}:"
    f" {shown(best.summary.mean, 'percent')} % (95 % interval"
    f" {shown(best.summary.low, 'percent')} to"
    f" {shown(best.summary.high, 'percent')})."
  )


# ---------------------------------------------------------------- how much?


def _data_saving(content: Content, dataset: str) -> list[str]:
  found = [
    saving
    for saving in content.savings
    if saving.kind == "data"
    and saving.series.dataset == dataset
    and saving.series.method == _MAIN_METHOD
    and saving.reference_size
    and not is_control(saving.series)
  ]
  return [_saving_sentence(saving) for saving in found[-1:]]


def _saving_sentence(saving: Saving) -> str:
  method = run_groups.method_name(saving.series.method)
  needed = report_words.needed_text(saving.needed)
  curve = (
    f"The curve of {method} over training-set sizes, made monotone, for the"
    f" student {saving.fixed}"
  )
  if saving.needed.size == math.inf:
    return f"{curve}, does not reach {saving.level}."
  if saving.needed.size == -math.inf:
    needed = f"{saving.smallest:,.0f}, the fewest that were tried,"
  return (
    f"{curve}, reaches {saving.level} at {needed} records; the saving of data is"
    f" {report_words.saving_text(saving)}."
  )


# -------------------------------------------------------------------- cautions


def _cautions(
  rows: Sequence[GroupRow], compared: Sequence[GroupComparison]
) -> list[str]:
  found = []
  at_chance = sum(sum(row.summary.at_chance) for row in rows)
  if at_chance:
    all_runs = sum(len(row.group.runs) for row in rows)
    found.append(
      f"{at_chance} of {report_words.count(all_runs, 'run')} are no better than always"
      " giving the most frequent answer; tables have the means with and without"
      " them."
    )
  few = [c.result.seeds for c in compared]
  if few and max(few) < content_tables.FEWEST_SEEDS:
    found.append(
      f"With {report_words.count(max(few), 'seed')} no p-value over seeds can be below .05:"
      " the intervals have to speak."
      if max(few) > 1
      else "One seed says nothing of others: train with more."
    )
  return found


def _p(each: GroupComparison) -> str:
  """The adjusted p-value, where so many seeds can show something by it."""
  if 1 < each.result.seeds < content_tables.FEWEST_SEEDS:
    return ""
  return f"; p {shown(each.adjusted, 'p')} by {each.test}, adjusted by Holm"
