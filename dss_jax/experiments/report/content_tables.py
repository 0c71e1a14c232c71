"""The tables of a report."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from dss_jax.experiments.report import report_words
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_statistics import GroupComparison
from dss_jax.experiments.report.report_tables import (
  Column,
  Table,
)

CONFIDENCE = "95 %"
# With fewer pairs of seeds, no sign flip can give a p-value below .05.
FEWEST_SEEDS = 6


def of_content(content: Content) -> list[Table]:
  """All tables that have rows, the most important first."""
  tables = [
    settings(content),
    comparisons(content),
    savings(content),
    teachers(content),
    against_teacher(content),
    runs(content),
    left_out(content),
  ]
  return [table for table in tables if table.rows]


def settings(content: Content) -> Table:
  """A row for each group."""
  return Table(
    "settings",
    "Test accuracy of each setting",
    [
      Column("dataset"),
      Column("student"),
      Column("parameters", "count"),
      Column("records", "count"),
      Column("method"),
      Column("seeds", "count"),
      Column("mean %", "percent"),
      Column("low", "percent"),
      Column("high", "percent"),
      Column("SD of seeds", "percent"),
      Column("detectable", "percent"),
      Column("runs at chance", "count"),
      Column("mean % of the others", "percent"),
      Column("steps", "count"),
      Column("tokens", "count"),
      Column("test items", "count"),
    ],
    [
      [
        row.group.series.dataset,
        row.group.student,
        row.group.parameters,
        row.group.examples,
        content.name(row.group.series),
        len(row.group.runs),
        row.summary.mean,
        row.summary.low,
        row.summary.high,
        row.summary.seed_deviation,
        row.detectable,
        sum(row.summary.at_chance),
        row.summary.mean_above_chance,
        row.steps,
        row.tokens,
        row.items,
      ]
      for row in content.rows
    ],
    [
      f"low, high: {CONFIDENCE} interval over seeds and test items (over items"
      " alone where there is one seed). detectable: the smallest difference from"
      " a fixed level that so many seeds and items would find in 80 % of"
      " experiments, in points. A run is at chance if it is not better than"
      " always giving the most frequent answer (one-sided binomial test at"
      " 2.5 %).",
    ],
  )


def comparisons(content: Content) -> Table:
  """A row for each pair of groups."""
  return Table(
    "comparisons",
    "Methods compared, paired by seed and by test item",
    [
      Column("dataset"),
      Column("student"),
      Column("records", "count"),
      Column("method"),
      Column("against"),
      Column("difference, points", "points"),
      Column("low", "points"),
      Column("high", "points"),
      Column("p", "p"),
      Column("p (Holm)", "p"),
      Column("test"),
      Column("least p", "p"),
      Column("detectable", "percent"),
      Column("seeds", "count"),
      Column("test items", "count"),
    ],
    [
      [
        each.group.series.dataset,
        each.group.student,
        each.group.examples,
        content.name(each.group.series),
        content.name(each.baseline.series),
        each.result.difference,
        each.result.low,
        each.result.high,
        each.p_value,
        each.adjusted,
        each.test,
        each.result.smallest_p_value if each.test == "sign flip" else None,
        each.result.detectable,
        each.result.seeds,
        each.result.items,
      ]
      for each in content.comparisons
    ],
    _comparison_notes(content.comparisons),
  )


def _comparison_notes(found: Sequence[GroupComparison]) -> list[str]:
  notes = [
    f"low, high: {CONFIDENCE} interval over seeds and items. p: two-sided, by"
    " flipping the signs of the seeds' differences; for one seed McNemar's exact"
    " test over items, which says nothing of other seeds. p (Holm): adjusted for"
    " all tests of the report. detectable: the smallest true difference, in"
    " points, that so many seeds and items would find in 80 % of experiments.",
  ]
  few = sorted({c.result.seeds for c in found if c.result.seeds < FEWEST_SEEDS})
  several = [seeds for seeds in few if seeds > 1]
  if several:
    least = ", ".join(f"{n} seeds: {2.0 ** (1 - n):.4g}" for n in several)
    notes.append(
      f"With fewer than {FEWEST_SEEDS} seeds no sign-flip p can be below .05"
      f" (least p: {least}): there the interval has to speak."
    )
  skipped = sum(each.seeds_left_out for each in found)
  if skipped:
    notes.append(
      f"{skipped} seeds that only one of two settings has are left out of their"
      " comparison."
    )
  return notes


def savings(content: Content) -> Table:
  """A row for each curve and what it is to reach."""
  return Table(
    "savings",
    "How much less is needed to be as good",
    [
      Column("dataset"),
      Column("saved"),
      Column("along"),
      Column("method"),
      Column("as good as"),
      Column("needed"),
      Column("saving"),
      Column("seeds", "count"),
    ],
    [
      [
        each.series.dataset,
        "data" if each.kind == "data" else "parameters",
        each.fixed,
        content.name(each.series),
        each.level,
        report_words.needed_text(each.needed),
        report_words.saving_text(each),
        each.seeds,
      ]
      for each in content.savings
    ],
    [
      "The size at which the mean curve (made monotone, linear in the logarithm"
      f" of the size) reaches the level, with a {CONFIDENCE} interval by"
      " resampling seeds and items. What lies beyond the sizes that were run is"
      " not extrapolated: “not reached” and “≥” stand for it.",
    ],
  )


def teachers(content: Content) -> Table:
  """A row for each reading of a teacher's answers."""
  rows = []
  for teacher in content.teachers:
    groups = [row.group for row in content.of_dataset(teacher.dataset)]
    metric = groups[0].metric
    row: list[float | int | str | None] = [teacher.dataset, teacher.name]
    train = teacher.accuracy("train", metric)
    row += [*train] if train else [None, None]
    for split in ("validation", "test"):
      answers = groups[0].answers(split=split)
      scores = None
      if answers:
        scores = teacher.scores(answers[0], metric)
      row += [None, None] if scores is None else _accuracy(scores)
    compared = content.hardest.get(teacher.dataset) == teacher
    rows.append([*row, "yes" if compared else "no"])
  return Table(
    "teachers",
    "The teacher's own accuracy, from its stored answers",
    [
      Column("dataset"),
      Column("teacher"),
      Column("training data %", "percent.2"),
      Column("items", "count"),
      Column("validation %", "percent.2"),
      Column("validation items", "count"),
      Column("test %", "percent.2"),
      Column("test items", "count"),
      Column("compared with"),
    ],
    rows,
    [
      "training data: the source's whole training split, before validation items"
      " are cut from it. An answer that cannot be read counts as wrong; items that"
      " the teacher was not asked about, or whose requests failed, count for"
      " nothing: “40 of 60” items were answered then."
      " Students are compared with the reading that is best for the teacher.",
    ],
  )


def _accuracy(scores: np.ndarray) -> list[float | int | str]:
  """A teacher's accuracy, and on how many items."""
  answered = int(np.sum(~np.isnan(scores)))
  number = (
    answered if answered == len(scores) else f"{answered:,} of {len(scores):,}"
  )
  return [float(np.nanmean(scores)), number]


def against_teacher(content: Content) -> Table:
  """A row for each group of a dataset with a teacher."""
  words = {True: "yes", False: "no", None: "not decided"}
  return Table(
    "against_teacher",
    "Students against the teacher, paired by test item",
    [
      Column("dataset"),
      Column("student"),
      Column("records", "count"),
      Column("method"),
      Column("teacher"),
      Column("validation, points", "points"),
      Column("low", "points"),
      Column("p better (Holm)", "p"),
      Column("beats it"),
      Column("test, points", "points"),
      Column("test low", "points"),
      Column("test high", "points"),
      Column("p", "p"),
      Column("p (Holm)", "p"),
      Column("detectable", "percent"),
      Column("seeds", "count"),
      Column("test items", "count"),
    ],
    [
      [
        each.group.series.dataset,
        each.group.student,
        each.group.examples,
        content.name(each.group.series),
        each.teacher.name,
        each.validation.difference if each.validation else None,
        each.validation.low if each.validation else None,
        each.validation_p,
        words[each.beats],
        each.test.difference,
        each.test.low,
        each.test.high,
        each.p_value,
        each.adjusted,
        each.test.detectable,
        each.test.seeds,
        each.test.items,
      ]
      for each in content.against_teacher
    ],
    [
      "Decided on validation: a student beats the teacher if the one-sided p of"
      " the paired difference, by the t of the interval and adjusted by Holm over"
      " the settings of the data set, is at most .025; for a single setting that"
      f" is a lower end of the {CONFIDENCE} interval above 0. The same items have"
      " chosen checkpoints and may have chosen learning rates, which favours the"
      " student. The test split was read after that, and decides nothing.",
    ],
  )


def runs(content: Content) -> Table:
  """A row for each run."""
  rows = []
  for row in content.rows:
    for run, at_chance in zip(
      row.group.runs, row.summary.at_chance, strict=True
    ):
      validation = run.validation
      rows.append(
        [
          str(run.folder),
          run.entry["dataset"],
          content.name(row.group.series),
          run.entry["student"],
          run.entry["train_examples"],
          run.seed,
          validation.correct.mean() if validation else None,
          run.test.correct.mean(),
          "yes" if at_chance else "no",
          run.entry["steps"],
          run.entry["checkpoint_step"],
          _number(run.entry.get("tokens_seen")),
          _number(run.entry.get("wall_s")),
          run.machine.get("dss_jax"),
        ]
      )
  return Table(
    "runs",
    "Every run",
    [
      Column("run"),
      Column("dataset"),
      Column("method"),
      Column("student"),
      Column("records", "count"),
      Column("seed", "count"),
      Column("validation %", "percent"),
      Column("test %", "percent"),
      Column("at chance"),
      Column("steps", "count"),
      Column("checkpoint", "count"),
      Column("tokens", "count"),
      Column("seconds", "count"),
      Column("dss_jax"),
    ],
    rows,
  )


def _number(value: object) -> float | None:
  return value if isinstance(value, int | float) else None


def left_out(content: Content) -> Table:
  """A row for each run that is not part of the report."""
  counts = collections.Counter(each.kind for each in content.left_out)
  counted = ", ".join(f"{number} {kind}" for kind, number in counts.items())
  return Table(
    "left_out",
    "Runs that are not part of this report",
    [Column("run"), Column("why"), Column("in words")],
    [[str(each.folder), each.kind, each.reason] for each in content.left_out],
    [f"{len(content.left_out)} runs: {counted}."] if counts else [],
  )
