"""What a report says of students and the teacher, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from dss_jax.experiments.report import report_statistics, report_words
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_tables import shown
from dss_jax.experiments.report.teacher_comparisons import TeacherComparison


def sentences(content: Content, dataset: str) -> list[str]:
  teacher = content.hardest.get(dataset)
  if teacher is None:
    return [
      "The teacher's stored answers to the validation and test items are not at"
      " hand; records with them can be given to the report."
    ]
  of_dataset = [
    each
    for each in content.against_teacher
    if each.group.series.dataset == dataset
  ]
  decided = [each for each in of_dataset if each.beats is not None]
  winners = [each for each in decided if each.beats]
  row = of_dataset[0]
  accuracy = row.teacher_accuracy
  items = "the test items"
  if row.items_left_out:
    of = row.test.items + row.items_left_out
    items = f"the {row.test.items:,} of {of:,} test items that it answered"
  first = (
    f"The teacher ({teacher.name}) is right on {shown(accuracy, 'percent')} % of"
    f" {items}."
  )
  if report_statistics.is_chance(
    accuracy,
    report_statistics.chance_of([row.group.runs[0].test]),
    row.test.items,
  ):
    first += (
      " That is no more than always giving the most frequent answer: this"
      " teacher's labels are of no use."
    )
  if smallest := smallest_winner(decided):
    return [
      first,
      f"By validation {len(winners)} of {len(decided)} settings beat it; the"
      f" smallest student that does is {content.name(smallest.group.series)}"
      f" with {report_words.setting(smallest.group)}: {_against(smallest)}.",
    ]
  best = max(of_dataset, key=_closeness)
  closest = (
    f"the closest is {content.name(best.group.series)} with"
    f" {report_words.setting(best.group)}: {_against(best)}."
  )
  if not decided:
    return [
      first,
      "Whether a student beats it is not decided, for want of its answers to the"
      f" validation items; {closest}",
    ]
  return [first, f"No setting is shown to beat it on validation; {closest}"]


def smallest_winner(
  found: Sequence[TeacherComparison],
) -> TeacherComparison | None:
  """The smallest student, then the least data, that beats the teacher."""
  return min(
    (each for each in found if each.beats),
    key=lambda each: (each.group.parameters or 0, each.group.examples or 0),
    default=None,
  )


def _closeness(each: TeacherComparison) -> float:
  return (each.validation or each.test).difference


def _against(each: TeacherComparison) -> str:
  test = each.test
  return (
    f"{report_words.signed(test.difference)} points on test ({report_words.signed(test.low)} to"
    f" {report_words.signed(test.high)})"
  )
