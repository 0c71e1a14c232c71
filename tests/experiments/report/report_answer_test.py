"""The answer in plain words agrees with the numbers."""

import functools
import math

import made_runs
import numpy as np
import pytest

from dss_jax.datasets.records import Rationale, Record, write_records
from dss_jax.experiments.report import (
  finished_runs,
  report_answer,
  report_content,
)


def _runs(folder, *, dss, standard, seeds=6, **more):
  for seed in range(seeds):
    for method, accuracy in (("dss", dss), ("standard", standard)):
      made_runs.make_run(
        folder / f"{method}{more.get('examples', '')}_{seed}",
        method=method,
        seed=seed,
        test=accuracy,
        **more,
      )


def _finding(folder, **more):
  content = report_content.build([folder], **more)
  [finding] = report_answer.findings(content)
  return content, finding


@pytest.mark.parametrize(
  ("dss", "helps", "words"),
  [
    (0.9, True, "Distilling step-by-step helps on taxonli"),
    (0.4, False, "Distilling step-by-step does harm on taxonli"),
    (0.72, None, "is not shown to help or to harm"),
  ],
)
def test_whether_it_helps_is_said_by_the_interval(tmp_path, dss, helps, words):
  _runs(tmp_path, dss=dss, standard=0.7)
  content, finding = _finding(tmp_path)
  assert finding.helps is helps
  assert words in finding.verdict
  result = content.comparisons[0].result
  assert f"{abs(100 * result.difference):.1f} points" in finding.text
  assert ("would often be missed" in finding.text) == (helps is None)
  assert finding.beats_teacher is None
  assert "not known" in finding.verdict
  assert "; p " in finding.text


def test_the_first_comparison_is_not_chosen_by_its_result(tmp_path):
  """The most records count, though the effect is greater with fewer."""
  _runs(tmp_path, dss=0.9, standard=0.4, seeds=3, examples=100)
  _runs(tmp_path, dss=0.5, standard=0.9, seeds=3, examples=900)
  content, finding = _finding(tmp_path)
  assert finding.helps is False
  assert "does harm on taxonli with 900 records, and helps with 100;" in (
    finding.verdict
  )
  assert "With 900 training records" in finding.text
  assert (
    "Of 2 settings compared, the interval lies above 0 in 1" in finding.text
  )
  main = report_answer.headline(content.comparisons)
  assert main is not None
  assert main.group.examples == 900
  # With three seeds there is no p-value to speak of.
  assert "; p " not in finding.text
  assert "no p-value over seeds can be below .05" in finding.cautions


def test_two_methods_at_chance_say_nothing(tmp_path):
  _runs(tmp_path, dss=0.05, standard=0.2, seeds=3)
  content, finding = _finding(tmp_path)
  assert content.comparisons[0].result.high < 0
  assert finding.helps is None
  assert "Both are at chance" in finding.text
  assert "would often be missed" not in finding.text


def test_controls_do_not_speak_for_the_method(tmp_path):
  _runs(tmp_path, dss=0.6, standard=0.6, seeds=2)
  for seed in range(2):
    made_runs.make_run(
      tmp_path / f"control{seed}",
      seed=seed,
      test=0.95,
      data={"taxonli_control": "shuffled"},
    )
  _, finding = _finding(tmp_path)
  assert finding.helps is None
  assert "With shuffled rationales the difference is +" in finding.text


def test_a_control_is_known_by_its_setting_too(tmp_path):
  """Where results.jsonl names the source alone."""
  _runs(tmp_path, dss=0.6, standard=0.6, seeds=2, config="c_control = 'none'\n")
  for seed in range(2):
    made_runs.make_run(
      tmp_path / f"control{seed}",
      seed=seed,
      test=0.95,
      config="c_control = 'copy'\n",
    )
  _, finding = _finding(tmp_path)
  assert finding.helps is None
  assert "With copy rationales the difference is +" in finding.text


def test_one_method_alone_is_not_compared(tmp_path):
  made_runs.make_run(tmp_path / "a", test=0.1)
  content, finding = _finding(tmp_path)
  assert finding.helps is None
  assert finding.verdict == "On taxonli, no methods are compared."
  assert "1 of 1 run" in finding.cautions
  assert report_answer.left_out(content) == ""


def test_the_teacher_is_part_of_the_answer(tmp_path):
  _runs(tmp_path, dss=0.95, standard=0.6, seeds=3)
  run = finished_runs.read_run(tmp_path / "dss_0")
  assert run.validation is not None
  generator = np.random.default_rng(0)
  records = [
    Record(
      item,
      "i",
      target,
      (Rationale("so", target if right else "none", "big"),),
    )
    for split in (run.validation, run.test)
    for item, target, right in zip(
      split.ids, split.targets, generator.random(60) < 0.6, strict=True
    )
  ]
  write_records(tmp_path / "big.jsonl", records)
  content, finding = _finding(tmp_path, teacher_files=[tmp_path / "big.jsonl"])
  assert finding.beats_teacher is True
  [smallest] = [e for e in content.against_teacher if e.beats]
  signed = f"{100 * smallest.test.difference:+.1f}"
  assert finding.verdict.endswith(
    f"on validation a student beats the teacher (on test {signed} points,"
    f" {100 * smallest.test.low:+.1f} to {100 * smallest.test.high:+.1f})."
  )
  beaten = [each.beats for each in content.against_teacher]
  assert f"By validation {sum(map(bool, beaten))} of 2 settings" in finding.text
  scores = content.hardest["taxonli"].scores(run.test, "accuracy")
  assert scores is not None
  assert f"is right on {100 * scores.mean():.1f} % of" in finding.text


def test_runs_that_are_left_out_are_counted(tmp_path):
  _runs(tmp_path, dss=0.9, standard=0.7, seeds=1)
  made_runs.make_run(
    tmp_path / "s", seed=9, cell={"axes": {}, "stage": "search"}
  )
  made_runs.make_run(tmp_path / "u", seed=8)
  (tmp_path / "u/results.jsonl").unlink()
  content, finding = _finding(tmp_path)
  assert report_answer.left_out(content) == (
    "2 more runs are not part of this report: 1 search, 1 not finished."
  )
  assert "One seed says nothing of others" in finding.cautions


def test_one_of_many_students_must_be_clearer_to_beat_the_teacher(tmp_path):
  """Alone it does; as the best of four it may be so by chance."""

  def but_five(target, i):
    return target if i % 12 else "none"

  make = functools.partial(made_runs.make_run, method="dss", seed=0)
  make(tmp_path / "runs/best", test=lambda target, i: target)
  run = finished_runs.read_run(tmp_path / "runs/best")
  assert run.validation is not None
  records = [
    Record(item, "i", target, (Rationale("so", but_five(target, i), "big"),))
    for split in (run.validation, run.test)
    for i, (item, target) in enumerate(
      zip(split.ids, split.targets, strict=True)
    )
  ]
  write_records(tmp_path / "big.jsonl", records)
  files = [tmp_path / "big.jsonl"]
  content, finding = _finding(tmp_path / "runs", teacher_files=files)
  [alone] = content.against_teacher
  assert alone.validation is not None
  assert (alone.validation_p, alone.beats) == (alone.validation.p_above, True)
  assert alone.validation.low > 0
  for rate in (0.01, 0.02, 0.08):
    make(tmp_path / f"runs/{rate}", rate=rate, test=but_five)
  content, finding = _finding(tmp_path / "runs", teacher_files=files)
  best = max(content.against_teacher, key=lambda e: e.test.difference)
  assert best.validation_p == pytest.approx(4 * alone.validation_p)
  assert (best.beats, finding.beats_teacher) == (False, False)


def test_without_fine_tuning_nothing_helps(tmp_path):
  for seed in range(3):
    for method, accuracy in (("dss", 0.5), ("rationale_then_label", 0.9)):
      made_runs.make_run(
        tmp_path / f"{method}{seed}", method=method, seed=seed, test=accuracy
      )
  _, finding = _finding(tmp_path)
  assert finding.helps is None
  assert "there are no runs of fine-tuning to compare with" in finding.verdict
  assert "better than distilling step-by-step" in finding.text


def test_the_first_comparison_is_one_with_fine_tuning(tmp_path):
  """Where the most records have none."""
  _runs(tmp_path, dss=0.9, standard=0.4, seeds=3, examples=100)
  for seed in range(3):
    for method in ("dss", "rationale_then_label"):
      made_runs.make_run(
        tmp_path / f"{method}900_{seed}",
        method=method,
        seed=seed,
        examples=900,
        test=0.8,
      )
  _, finding = _finding(tmp_path)
  assert finding.helps is True
  assert "With 100 training records" in finding.text


def test_equal_answers_say_nothing_of_what_would_be_missed(tmp_path):
  _runs(tmp_path, dss=0, standard=0, seeds=1)
  for method in ("dss", "standard"):
    made_runs.make_run(
      tmp_path / f"{method}_0", method=method, test=lambda target, i: target
    )
  content, finding = _finding(tmp_path)
  assert math.isnan(content.comparisons[0].result.detectable)
  assert "often be missed" not in finding.text
  assert "step-by-step is as good as fine-tuning" in finding.text


def test_a_curve_that_falls_at_the_end_is_not_called_worse_throughout(
  tmp_path,
):
  """Its largest size is worse than fine-tuning, another one better."""
  for seed in range(2):
    for method, size, accuracy in (
      ("standard", 100, 0.4),
      ("standard", 700, 0.6),
      ("dss", 100, 0.5),
      ("dss", 700, 0.75),
      ("dss", 3000, 0.4),
    ):
      made_runs.make_run(
        tmp_path / f"{method}{size}_{seed}",
        method=method,
        seed=seed,
        examples=size,
        test=accuracy,
      )
  _, finding = _finding(tmp_path)
  assert "points better than fine-tuning" in finding.text
  assert "made monotone, for the student" in finding.text
  assert "does not reach fine-tuning with 700 records" in finding.text
