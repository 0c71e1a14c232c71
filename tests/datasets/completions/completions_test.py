"""Reading completions: each defect by hand, and the real files' counts."""

import collections
import json
import re

import pytest

from dss_jax.datasets import completions
from dss_jax.datasets.completions import Parsed
from dss_jax.datasets.completions import official_reader as official_code

NEXT = "\n\nQ: What is next?\nA: So the answer is (e) nothing."
CHOICES = ("pond", "french capital", "Lake", "skyscaper", "a vase.")


def _cqa(answer, *, rationale="Because.", following=NEXT):
  return f"{rationale} So the answer is {answer}{following}"


@pytest.mark.parametrize(
  ("completion", "official", "tolerant"),
  [
    (
      _cqa("(a) pond."),
      Parsed("Because.", "pond"),
      Parsed("Because.", "pond"),
    ),
    (
      _cqa("(b) French capital."),
      Parsed("Because.", "French capital", "label_not_in_choices"),
      Parsed("Because.", "french capital"),
    ),
    (
      _cqa("either (a) pond or (c) lake."),
      Parsed("Because.", "pond or", "multiple_answers"),
      Parsed("Because.", "pond", "multiple_answers"),
    ),
    (
      _cqa("either (c) or (d)."),
      Parsed("Because.", "or", "multiple_answers"),
      Parsed("Because.", "Lake", "multiple_answers"),
    ),
    (
      _cqa("(d) pond."),
      Parsed("Because.", "pond"),
      Parsed("Because.", "pond", "letter_text_mismatch"),
    ),
    (
      _cqa("(d) skyscraper."),
      Parsed("Because.", "skyscraper", "label_not_in_choices"),
      Parsed("Because.", "skyscaper", "label_not_in_choices"),
    ),
    (
      _cqa("(e) a vase."),
      Parsed("Because.", "a vase", "label_not_in_choices"),
      Parsed("Because.", "a vase."),
    ),
    (
      _cqa("(b)."),
      Parsed("Because.", None, "no_label"),
      Parsed("Because.", "french capital"),
    ),
    (
      _cqa("pond."),
      Parsed("Because.", None, "no_label"),
      Parsed("Because.", "pond"),
    ),
    (
      _cqa("one of these."),
      Parsed("Because.", None, "no_label"),
      Parsed("Because.", None, "no_label"),
    ),
    (
      _cqa("(z) river."),
      Parsed("Because.", "river", "label_not_in_choices"),
      Parsed("Because.", None, "no_label"),
    ),
    (
      _cqa("(", following=""),
      Parsed("Because.", None, "no_label"),
      Parsed("Because.", None, "truncated"),
    ),
    (
      "It is a pond." + NEXT.replace("So the answer is", ""),
      Parsed("", None, "no_marker"),
      Parsed("It is a pond.", None, "no_marker"),
    ),
    (
      "It is a pond because",
      Parsed("", None, "no_marker"),
      Parsed("", None, "truncated"),
    ),
    (
      _cqa("(a) pond. No! So the answer is (c) Lake."),
      Parsed("", None, "several_markers"),
      Parsed("Because.", "pond", "multiple_answers"),
    ),
    (
      _cqa("(a) pond.", rationale=""),
      Parsed("", "pond", "empty"),
      Parsed("", "pond", "empty"),
    ),
    ("", Parsed("", None, "no_marker"), Parsed("", None, "truncated")),
  ],
)
def test_cqa(completion, official, tolerant):
  assert official_code.official_cqa(completion, CHOICES) == official
  assert completions.parser("cqa", "tolerant")(completion, CHOICES) == tolerant


@pytest.mark.parametrize(
  ("completion", "official", "tolerant"),
  [
    (
      "84 / 2. The answer is (84 / 2)." + NEXT,
      Parsed("84 / 2.", "(84 / 2)"),
      Parsed("84 / 2.", "(84 / 2)"),
    ),
    (
      "R. The answer is ((1 + 2) * (3 + 4)).\n\nQ",
      Parsed("R.", "((1 + 2) * (3 + 4))"),
      Parsed("R.", "((1 + 2) * (3 + 4))"),
    ),
    (
      "R. The answer is (6 * 7) * 2." + NEXT,
      Parsed("R.", "(6 * 7)"),
      Parsed("R.", "(6 * 7)", "label_cut"),
    ),
    (
      "R. The answer is (some - 8)." + NEXT,
      Parsed("R.", "(some - 8)", "unevaluable"),
      Parsed("R.", None, "unevaluable"),
    ),
    (
      "R. The answer is ((40 - 1) - (3",
      Parsed("R.", "((40 - 1)", "unevaluable"),
      Parsed("R.", None, "truncated"),
    ),
    (
      "R. The answer is 12." + NEXT,
      Parsed("R.", None, "no_label"),
      Parsed("R.", None, "no_label"),
    ),
    (
      "So 9 are left." + NEXT.replace("the answer", "it"),
      Parsed("", None, "no_marker"),
      Parsed("So 9 are left.", None, "no_marker"),
    ),
    (
      "R. The answer is (9**9**9)." + NEXT,
      Parsed("R.", "(9**9**9)", "unevaluable"),
      Parsed("R.", None, "unevaluable"),
    ),
  ],
)
def test_svamp(completion, official, tolerant):
  assert official_code.official_svamp(completion, None) == official
  assert completions.parser("svamp", "tolerant")(completion, None) == tolerant


NEXT_PREMISE = "\n\nPremise: P.\nHypothesis: H.\nAnswer: So the answer is"


@pytest.mark.parametrize(
  ("completion", "official", "tolerant"),
  [
    (
      "R. So the answer is neutral." + NEXT_PREMISE,
      Parsed("R.", "neutral"),
      Parsed("R.", "neutral"),
    ),
    (
      "It rained, so the answer is entailment." + NEXT_PREMISE,
      Parsed("", None, "no_marker"),
      Parsed("It rained", "entailment"),
    ),
    (
      "R. So the answer is neutral",
      Parsed("R.", "neutra", "label_not_in_choices"),
      Parsed("R.", "neutral"),
    ),
    (
      "R. So the answer is contradiction.\n\nPremise",
      Parsed("R.", "contradiction.\n\nPremis", "label_not_in_choices"),
      Parsed("R.", "contradiction"),
    ),
    (
      "R. So the answer is analogy." + NEXT_PREMISE,
      Parsed("R.", "analogy", "label_not_in_choices"),
      Parsed("R.", None, "label_not_in_choices"),
    ),
    (
      "R. So the answer is",
      Parsed("R.", None, "no_label"),
      Parsed("R.", None, "truncated"),
    ),
    (
      "R. So the hypothesis is false." + NEXT_PREMISE,
      Parsed("", None, "no_marker"),
      Parsed("R. So the hypothesis is false.", None, "no_marker"),
    ),
    (
      "A star is a sun. A sun is",
      Parsed("", None, "no_marker"),
      Parsed("", None, "truncated"),
    ),
    (
      "R. So the answer is neutral. S. So the answer is entailment.",
      Parsed("", None, "several_markers"),
      Parsed("R.", "neutral", "multiple_answers"),
    ),
    (
      "So the answer is neutral." + NEXT_PREMISE,
      Parsed("", "neutral", "empty"),
      Parsed("", "neutral", "empty"),
    ),
  ],
)
def test_anli(completion, official, tolerant):
  assert official_code.official_anli(completion, None) == official
  assert completions.parser("anli1", "tolerant")(completion, None) == tolerant


def test_anli_by_the_other_teacher():
  text = "\n R. The answer is neutral."
  assert completions.parser("anli1", "official", "gpt-neox")(
    text, None
  ) == Parsed("R.", "neutral")
  assert completions.parser("anli1", "official")(text, None) == Parsed(
    "", None, "no_marker"
  )


@pytest.mark.parametrize(
  ("completion", "official", "tolerant"),
  [
    (
      "R.\nAnswer: neutral\n\nPremise: P.",
      Parsed("R.", "neutral"),
      Parsed("R.", "neutral"),
    ),
    (
      "R.\nAnswer: entailment\n\nPre",
      Parsed("R.", "entailment\n\nPre", "label_not_in_choices"),
      Parsed("R.", "entailment"),
    ),
    (
      "R.\nAnswer: entail",
      Parsed("R.", "entail", "label_not_in_choices"),
      Parsed("R.", "entailment"),
    ),
    (
      "R.\nAnswer:",
      Parsed("R.", None, "no_marker"),
      Parsed("R.", None, "truncated"),
    ),
    (
      "R, but it goes on and",
      Parsed("R, but it goes on and", None, "no_marker"),
      Parsed("", None, "truncated"),
    ),
    (
      "R, and that is all.\n\nPremise: P.",
      Parsed("R, and that is all.\n\nPremise: P.", None, "no_marker"),
      Parsed("R, and that is all.", None, "no_marker"),
    ),
    (
      "R.\nAnswer: not at all\n\nPremise: P.",
      Parsed("R.", "not at all", "label_not_in_choices"),
      Parsed("R.", None, "label_not_in_choices"),
    ),
    (
      "Answer: neutral\n\nPremise: P.",
      Parsed("", "neutral", "empty"),
      Parsed("", "neutral", "empty"),
    ),
  ],
)
def test_esnli(completion, official, tolerant):
  assert official_code.official_esnli(completion, None) == official
  assert completions.parser("esnli", "tolerant")(completion, None) == tolerant


def test_every_status_is_documented():
  for status in completions.STATUSES[1:]:
    assert f"\n  {status} " in (completions.__doc__ or "")


# --- the real files, against an independent reading of the format ------------


def _cqa_by_regex(completion):
  head = re.split("Q:", completion, maxsplit=1)[0]
  found = re.fullmatch(
    r"(?s)(.*?)\s*So the answer is(?:[^(]|\((?!.\)))*\(.\)(.*?)(?:\(.\).*)?",
    head.rstrip(),
  )
  if not found:
    return None
  return found[1], re.sub(r"\.$", "", found[2].strip())


def _svamp_by_regex(completion):
  head = re.split("Q:", completion, maxsplit=1)[0].rstrip()
  found = re.fullmatch(r"(?s)(.*?)\s*The answer is(.*)", head)
  if not found or "The answer is" in found[2]:
    return None
  first, last = found[2].find("("), found[2].rfind(")")
  label = found[2][first : last + 1] if 0 <= first < last else None
  return found[1], label


def _completion_files(folder, split):
  files = sorted(
    folder.glob(f"llm/{split}_CoT_*.json"),
    key=lambda path: int(path.stem.rpartition("_")[2]),
  )
  return [text for path in files for text in json.loads(path.read_text())]


@pytest.mark.shared
@pytest.mark.parametrize("split", ["train", "test"])
def test_official_readers_on_every_real_completion(shared_data, split):
  folder = shared_data / "dss_release"
  for text in _completion_files(folder / "cqa", split):
    parsed = official_code.official_cqa(text, None)
    expected = _cqa_by_regex(text)
    if expected is None:
      assert parsed.label is None
    else:
      assert (parsed.rationale, parsed.label) == expected
  for text in _completion_files(folder / "svamp", split):
    parsed = official_code.official_svamp(text, None)
    assert (parsed.rationale, parsed.label) == (
      _svamp_by_regex(text) or ("", None)
    )


@pytest.mark.shared
def test_real_completions_run_on(shared_data):
  """Why readers cut at the next exemplar: all of CQA's completions need it."""
  counts = collections.Counter(
    "\n\nQ:" in text or text.rstrip().endswith("\n\nQ")
    for text in _completion_files(shared_data / "dss_release" / "cqa", "train")
  )
  assert counts[True] == 9741
