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
  run_cells,
)
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_savings import Saving
from dss_jax.experiments.report.report_statistics import CellComparison, CellRow
from dss_jax.experiments.report.report_tables import MINUS, shown
from dss_jax.experiments.report.run_cells import Cell, Family
from dss_jax.experiments.report.teacher_comparisons import TeacherComparison

_MAIN_METHOD = "dss"


@dataclasses.dataclass(frozen=True)
class Finding:
  """What was found on a dataset.

  Attributes:
    dataset: its name.
    helps: whether the method that the report is about is better than
      fine-tuning (True) or worse (False), by the interval; None where neither
      is shown, or nothing is compared.
    beats_teacher: whether a student beats the teacher, as decided on
      validation; None where it is not decided.
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
  runs = f"{_count(number, 'more run')} {'is' if number == 1 else 'are'}"
  return f"{runs} not part of this report: {listed}."


def is_control(family: Family) -> bool:
  """Whether its rationales are made not to help, such as shuffled ones."""
  return _control(family) is not None


def _control(family: Family) -> str | None:
  """The name of a control, from its source or the setting that makes it."""
  names = [family.rationale_source.rpartition(" ")[2]]
  names += [
    value.strip("'\"")
    for name, value in family.variant
    if name.endswith("_control")
  ]
  return next((n for n in names if n in CONTROLS and n != "none"), None)


def _of_dataset(content: Content, dataset: str) -> Finding:
  rows = content.of_dataset(dataset)
  compared = [
    each for each in content.comparisons if each.cell.family.dataset == dataset
  ]
  main = headline(compared)
  helps = None
  if main is not None and not _at_chance(rows, main):
    helps = True if main.result.low > 0 else None
    helps = False if main.result.high < 0 else helps
  decided = [
    each.beats
    for each in content.against_teacher
    if each.cell.family.dataset == dataset and each.beats is not None
  ]
  beats = any(decided) if decided else None
  return Finding(
    dataset,
    helps,
    beats,
    _verdict(dataset, main, helps, beats),
    " ".join(
      [
        *_help(content, dataset, rows, compared),
        *_data_saving(content, dataset),
        *_teacher(content, dataset),
      ]
    ),
    " ".join(_cautions(rows, compared)),
  )


def _verdict(
  dataset: str,
  main: CellComparison | None,
  helps: bool | None,
  beats: bool | None,
) -> str:
  if main is None:
    return f"On {dataset}, no methods are compared."
  method = _capital(run_cells.method_name(main.cell.family.method))
  does = {
    True: "helps",
    False: "does harm",
    None: "is not shown to help or to harm",
  }[helps]
  teacher = {
    True: "a student beats the teacher",
    False: "no student is shown to beat the teacher",
    None: "whether a student beats the teacher is not known",
  }[beats]
  return f"{method} {does} on {dataset}; {teacher}."


# ------------------------------------------------------------- does it help?


def _help(
  content: Content,
  dataset: str,
  rows: Sequence[CellRow],
  compared: Sequence[CellComparison],
) -> list[str]:
  main = headline(compared)
  if main is None:
    return [_nothing_compared(content, dataset, rows)]
  cell, result = main.cell, main.result
  method = run_cells.method_name(cell.family.method)
  baseline = run_cells.method_name(main.baseline.family.method)
  sentences = [
    f"With {_setting(cell)}, {method} is"
    f" {_points(result.difference)} {_better(result.difference)} than {baseline}"
    f" (95 % interval {_signed(result.low)} to {_signed(result.high)};"
    f" {_count(result.seeds, 'seed')}, {result.items:,} test items"
    f"{_p(main)}).",
  ]
  if _at_chance(rows, main):
    sentences.append(
      "Both are at chance, so that this says nothing about either: train longer,"
      " with more data, or a larger student."
    )
  elif result.low <= 0 <= result.high:
    sentences.append(
      f"A difference of less than {100 * result.detectable:.1f} points would"
      " often be missed with so many seeds and items."
    )
  same = [
    each
    for each in compared
    if each.cell.family.method == cell.family.method
    and not is_control(each.cell.family)
  ]
  if len(same) > 1:
    above = sum(each.result.low > 0 for each in same)
    below = sum(each.result.high < 0 for each in same)
    sentences.append(
      f"Of {len(same)} settings compared, the interval lies above 0 in {above},"
      f" below 0 in {below}, and holds 0 in {len(same) - above - below}."
    )
  return [*sentences, *_controls(compared, main)]


def _at_chance(rows: Sequence[CellRow], main: CellComparison) -> bool:
  """Whether all runs of both cells are at chance."""
  both = [row for row in rows if row.cell in (main.cell, main.baseline)]
  return all(all(row.summary.at_chance) for row in both)


def headline(compared: Sequence[CellComparison]) -> CellComparison | None:
  """The comparison that a report begins with; None if there is none.

  Fixed beforehand, so that no result chooses it: distilling step-by-step with
  gold labels, the most training records, then the largest student.
  """
  candidates = [each for each in compared if not is_control(each.cell.family)]
  return max(
    candidates,
    key=lambda each: (
      each.cell.family.method == _MAIN_METHOD,
      each.cell.family.label_source == "gold",
      each.cell.examples or 0,
      each.cell.parameters or 0,
    ),
    default=None,
  )


def _controls(
  compared: Sequence[CellComparison], main: CellComparison
) -> list[str]:
  """What controls say in the setting of the first comparison."""
  return [
    f"With {_control(each.cell.family)} rationales"
    f" the difference is {_signed(each.result.difference)} points"
    f" ({_signed(each.result.low)} to {_signed(each.result.high)})."
    for each in compared
    if is_control(each.cell.family)
    and each.cell.examples == main.cell.examples
    and each.cell.student == main.cell.student
  ]


def _nothing_compared(
  content: Content, dataset: str, rows: Sequence[CellRow]
) -> str:
  if any(a.family.dataset == dataset for a, _ in content.unpaired):
    return (
      "No two methods have a seed in common: train them with the same seeds."
    )
  best = max(rows, key=lambda row: row.summary.mean)
  name = content.name(best.cell.family)
  return (
    "No two methods have runs with the same student and data. The best setting"
    f" is {name} with {_setting(best.cell)}:"
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
    and saving.family.dataset == dataset
    and saving.family.method == _MAIN_METHOD
    and saving.reference_size
    and not is_control(saving.family)
  ]
  return [_saving_sentence(saving) for saving in found[-1:]]


def _saving_sentence(saving: Saving) -> str:
  method = run_cells.method_name(saving.family.method)
  needed = content_tables.needed_text(saving.needed)
  if saving.needed.size == math.inf:
    return f"{_capital(method)} is nowhere as good as {saving.level}."
  if saving.needed.size == -math.inf:
    needed = f"{saving.smallest:,.0f}, the fewest that were tried"
  return (
    f"For the student {saving.fixed} it is as good as {saving.level} from"
    f" {needed} records on; the saving of data is"
    f" {content_tables.saving_text(saving)}."
  )


# -------------------------------------------------------- does it beat the LLM?


def _teacher(content: Content, dataset: str) -> list[str]:
  teacher = content.hardest.get(dataset)
  if teacher is None:
    return [
      "The teacher's stored answers to the validation and test items are not at"
      " hand; records with them can be given to the report."
    ]
  of_dataset = [
    each
    for each in content.against_teacher
    if each.cell.family.dataset == dataset
  ]
  decided = [each for each in of_dataset if each.beats is not None]
  winners = [each for each in decided if each.beats]
  row = of_dataset[0]
  accuracy = _mean(row.cell) - row.test.difference
  first = (
    f"The teacher ({teacher.name}) is right on {shown(accuracy, 'percent')} % of"
    " the test items."
  )
  if is_chance(
    accuracy,
    report_statistics.chance_of([row.cell.runs[0].test]),
    row.test.items,
  ):
    first += (
      " That is no more than always giving the most frequent answer: this"
      " teacher's labels are of no use."
    )
  if winners:
    best = min(
      winners, key=lambda e: (e.cell.parameters or 0, e.cell.examples or 0)
    )
    return [
      first,
      f"By validation {len(winners)} of {len(decided)} settings beat it; the"
      f" smallest student that does is {content.name(best.cell.family)} with"
      f" {_setting(best.cell)}: {_against(best)}.",
    ]
  best = max(of_dataset, key=_closeness)
  closest = (
    f"the closest is {content.name(best.cell.family)} with"
    f" {_setting(best.cell)}: {_against(best)}."
  )
  if not decided:
    return [
      first,
      "Whether a student beats it is not decided, for want of its answers to the"
      f" validation items; {closest}",
    ]
  return [first, f"No setting is shown to beat it on validation; {closest}"]


def is_chance(accuracy: float, chance: float, items: int) -> bool:
  """Whether an accuracy is at most two standard errors above chance."""
  return accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / items)


def _closeness(each: TeacherComparison) -> float:
  return (each.validation or each.test).difference


def _against(each: TeacherComparison) -> str:
  test = each.test
  return (
    f"{_signed(test.difference)} points on test ({_signed(test.low)} to"
    f" {_signed(test.high)})"
  )


# -------------------------------------------------------------------- cautions


def _cautions(
  rows: Sequence[CellRow], compared: Sequence[CellComparison]
) -> list[str]:
  found = []
  at_chance = sum(sum(row.summary.at_chance) for row in rows)
  if at_chance:
    all_runs = sum(len(row.cell.runs) for row in rows)
    found.append(
      f"{at_chance} of {_count(all_runs, 'run')} are no better than always"
      " giving the most frequent answer; tables have the means with and without"
      " them."
    )
  few = [c.result.seeds for c in compared]
  if few and max(few) < content_tables.FEWEST_SEEDS:
    found.append(
      f"With {_count(max(few), 'seed')} no p-value over seeds can be below .05:"
      " the intervals have to speak."
      if max(few) > 1
      else "One seed says nothing of others: train with more."
    )
  return found


# ----------------------------------------------------------------------- words


def _setting(cell: Cell) -> str:
  records = "all" if cell.examples is None else f"{cell.examples:,}"
  return f"{records} training records and the student {cell.student}"


def _mean(cell: Cell) -> float:
  return float(sum(r.test.correct.mean() for r in cell.runs) / len(cell.runs))


def _points(difference: float) -> str:
  return f"{abs(100 * difference):.1f} points"


def _better(difference: float) -> str:
  return "better" if difference >= 0 else "worse"


def _signed(difference: float) -> str:
  return f"{100 * difference:+.1f}".replace("-", MINUS)


def _p(each: CellComparison) -> str:
  """The adjusted p-value, where so many seeds can show something by it."""
  if 1 < each.result.seeds < content_tables.FEWEST_SEEDS:
    return ""
  return f"; p {shown(each.adjusted, 'p')} by {each.test}, adjusted by Holm"


def _count(number: int, noun: str) -> str:
  return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _capital(text: str) -> str:
  return text[0].upper() + text[1:]
