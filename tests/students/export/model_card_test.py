"""A card tells what is known, and invents nothing."""

import functools
import json

import pytest

from dss_jax.students.export import answer_checks, model_card

ROW = {
  "task": "taxonli_label",
  "split": "test",
  "metric": "accuracy",
  "value": 0.9125,
  "n": 1000,
  "checkpoint_step": 3,
  "method": "dss",
  "steps": 3600,
  "tokens_seen": 1234567,
  "train_examples": 500,
  "rationale_source": "a | <b>teacher</b>",
  "selected_by": "validation accuracy",
}


@pytest.fixture
def render(make_student, tmp_path):
  return functools.partial(_render, make_student, tmp_path)


def _render(make_student, tmp_path, rows, agreements=(), **description):
  lines = [json.dumps(row) + "\n" for row in rows]
  (tmp_path / "results.jsonl").write_text("".join(lines))
  student = make_student(
    params={},
    description={"source": str(tmp_path), "step": 3, **description},
  )
  export = model_card.Export(
    title="mine", format="X", usage="Do.", agreements=agreements
  )
  return model_card.render(student, export)


def test_it_tells_the_runs_figures(render):
  agreement = answer_checks.Agreement("label", 64, 64, 63)
  card = render([ROW], [agreement], task="taxonli_dss", dataset="taxonli")
  for part in (
    "# mine",
    "| taxonli_label | test | accuracy | 0.9125 | 1000 |",
    "steps: 3,600",
    "tokens seen: 1,234,567",
    "identical labels 63/64",
    "Apache-2.0",
    '`"[label] {input}"`',
    '`"yes"`, `"no"`',
    "selected by validation accuracy",
  ):
    assert part in card
  assert "a \\| &lt;b>teacher" in card  # no markup of others


def test_what_is_not_known_is_left_out(render):
  card = render([])
  assert "## Scores" not in card
  assert "## Training" not in card
  assert "## Data" not in card
  assert "This export was not checked." in card


def test_another_checkpoints_scores_are_not_its_own(render):
  card = render([{**ROW, "checkpoint_step": 4}])
  assert "0.9125" not in card


def test_a_damaged_results_file_is_no_obstacle(make_student, tmp_path):
  (tmp_path / "results.jsonl").write_text("[1]\n{\n")
  student = make_student(params={}, description={"source": str(tmp_path)})
  export = model_card.Export(title="t", format="X", usage="Do.")
  assert "## Scores" not in model_card.render(student, export)


def test_the_title_is_the_folders_own_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert model_card.title(".") == tmp_path.name
  assert model_card.title("a/b/") == "b"
