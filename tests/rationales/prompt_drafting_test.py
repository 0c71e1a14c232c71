"""Prompts drafted from data: they say how answers look, and answers are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record
from dss_jax.rationales import completion_parsing, prompt_drafting, prompt_files
from dss_jax.rationales.teacher_requests import Completion

TEAMS = ["billing", 'log "in"', "\\refund", "ünïcode\x7f"]


def _records(labels):
  return [Record(str(i), f"text {i}", label) for i, label in enumerate(labels)]


def _load(text, folder):
  path = folder / "draft.toml"
  path.write_text(text, encoding="utf-8")
  return prompt_files.load(path)


def _parse(prompt, text):
  completion = Completion(text=text)
  return completion_parsing.parse(prompt, _records(["x"])[0], completion)


def test_a_closed_set_of_labels(tmp_path):
  prompt = _load(prompt_drafting.draft(_records(TEAMS * 5)), tmp_path)
  assert prompt.answer_kind == "label"
  assert set(prompt.labels) == set(TEAMS)
  assert all(label in prompt.instruction for label in TEAMS)
  text = prompt.output_format.format(rationale="It says so.", answer="billing")
  parsed = _parse(prompt, text)
  assert (parsed.status, parsed.label) == ("ok", "billing")
  assert parsed.rationale == "It says so."


@pytest.mark.parametrize(
  ("labels", "kind", "answer"),
  [
    ([str(i) for i in range(40)], "number", "17"),
    ([f"the {i}th" for i in range(40)], "text", "the fifth"),
    (["a", "b", "c"], "text", "a"),  # too few to call them all there are
    (["Yes", "yes", "no"] * 20, "text", "yes"),  # a student must tell, too
    (["yes"] * 20, "text", "yes"),
  ],
)
def test_open_answers(tmp_path, labels, kind, answer):
  prompt = _load(prompt_drafting.draft(_records(labels)), tmp_path)
  assert prompt.answer_kind == kind
  text = prompt.output_format.format(rationale="So it is.", answer=answer)
  parsed = _parse(prompt, text)
  assert (parsed.status, parsed.label) == ("ok", answer)


def test_records_without_labels_have_no_draft():
  with pytest.raises(UserError, match="no record has a label"):
    prompt_drafting.draft(_records([None, None]))


@given(
  st.sets(
    st.text(
      st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
      min_size=1,
    )
  )
)
def test_any_labels_make_a_file_that_can_be_read(tmp_path_factory, labels):
  labels = [label for label in labels if label.strip()]
  if not labels:
    return
  text = prompt_drafting.draft(_records(labels * 5))
  refusal = ""
  try:
    prompt = _load(text, tmp_path_factory.mktemp("draft"))
  except UserError as error:
    refusal = str(error)
  # Labels that no answer could tell apart are refused, by name.
  assert "label" in refusal or set(prompt.labels) in (set(), set(labels))
