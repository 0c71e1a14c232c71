"""Which student is taken, and what is advised."""

import dataclasses

import made_runs
import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, load_split
from dss_jax.datasets.records import Rationale, write_records
from dss_jax.experiments.distill import outcome
from dss_jax.experiments.distill.project import DistillOptions, Project

ITEMS = 60


def _project(folder, *, teacher=0.9, **accuracies):
  """Made-up runs of two methods with three seeds, and a teacher's answers."""
  project = Project.of(DistillOptions("taxonli.csv", str(folder), "m"))
  for method, accuracy in accuracies.items():
    for seed in range(3):
      made_runs.make_run(
        project.runs_folder / f"{method}_{seed}",
        method=method,
        seed=seed,
        # The middle seed is the best on validation.
        validation=accuracy + 0.05 * (seed == 1),
        test=accuracy,
        items=ITEMS,
        cell={"stage": "final", "axes": {}},
      )
  options = DataOptions(
    taxonli_num_train=8,
    taxonli_num_validation=ITEMS,
    taxonli_num_test=ITEMS,
  )
  for split in ("validation", "test"):
    answer = made_runs.answers(teacher, seed=99)
    records = [
      dataclasses.replace(
        record,
        rationales=(Rationale("so", answer(record.label or "", i), "m"),),
      )
      for i, record in enumerate(load_split("taxonli", split, options=options))
    ]
    project.records(split).parent.mkdir(exist_ok=True)
    write_records(project.records(split), records)
  return project


@pytest.mark.parametrize(
  ("standard", "dss", "method", "words"),
  [
    (0.6, 0.85, "dss", "helps on taxonli"),
    (0.85, 0.6, "standard", "does harm on taxonli"),
  ],
)
def test_the_better_method_and_its_best_seed(
  tmp_path, standard, dss, method, words
):
  project = _project(tmp_path, standard=standard, dss=dss)
  found = outcome.read(project)
  assert (found.method, found.run.name) == (method, f"{method}_1")
  text = " ".join(found.describe().split())
  assert words in text
  assert "no student is shown to beat the teacher" in text
  assert "--student=google/flan-t5-small" in text
  # Made-up runs are best at their last step.
  assert "were still getting better when training ended" in text


def test_a_teacher_at_chance_is_of_no_use(tmp_path):
  project = _project(tmp_path, teacher=0.3, standard=0.6, dss=0.9)
  found = outcome.read(project)
  text = " ".join(found.describe().split())
  assert "this teacher's labels are of no use" in text
  assert found.finding.beats_teacher is True


def test_students_that_learned_nothing_need_time(tmp_path):
  project = _project(tmp_path, standard=0.3, dss=0.3)
  [advice] = outcome.read(project).advice
  assert "--minutes is 15" in advice


def test_a_method_without_runs_is_named(tmp_path):
  project = _project(tmp_path, dss=0.8)
  with pytest.raises(UserError, match="no finished run of 'standard'"):
    outcome.read(project)


def test_runs_that_diverged_are_named_and_the_others_count(tmp_path):
  project = _project(tmp_path, standard=0.6, dss=0.9)
  (project.runs_folder / "dss_2" / "diverged.json").write_text(
    '{"reason": "loss was not finite"}'
  )
  found = outcome.read(project)
  assert found.method == "dss"
  text = " ".join(found.describe().split())
  assert "1 of 6 runs have no results (it diverged: loss was not" in text
  assert (
    outcome.read(_project(tmp_path / "all", dss=0.9, standard=0.6)).missing
    == ""
  )


def test_without_answers_to_held_out_records_there_is_no_teacher(tmp_path):
  project = _project(tmp_path, standard=0.6, dss=0.9)
  for split in ("validation", "test"):
    project.records(split).unlink()
  assert outcome.teacher_files(project) == []
  assert outcome.read(project).finding.beats_teacher is None
