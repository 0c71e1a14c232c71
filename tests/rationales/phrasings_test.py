"""How chat models phrase answers: tables of completions, and what they mean."""

import collections

import phrasings_held_apart
import phrasings_seen
import pytest

from dss_jax.datasets import arithmetic
from dss_jax.datasets.records import Record
from dss_jax.rationales import completion_parsing, prompt_files
from dss_jax.rationales.prompts import Prompt
from dss_jax.rationales.teacher_requests import Completion


def _prompt(kind, labels=()):
  return Prompt(
    name="mine",
    input_format="Q: {input}\nA:",
    output_format=" {rationale} The answer is {answer}.",
    answer_kind=kind,
    answer_marker="The answer is",
    labels=labels,
  )


PROMPTS = {
  "CHOICE": prompt_files.load("cqa"),
  "LABEL": prompt_files.load("anli"),
  "YES_NO": _prompt("label", ("yes", "no")),
  "SHORT_LABEL": _prompt(
    "label", ("wait", "sorry", "none", "hmm", "other", "late")
  ),
  "NUMBER": _prompt("number"),
  "EXPRESSION": prompt_files.load("svamp"),
  "TEXT": _prompt("text"),
}
RECORDS = {
  "CHOICE": Record(
    "1",
    "Where is money kept?",
    meta={
      "choices": ["river", "bank", "piggy bank", "post office", "New York"]
    },
  ),
  "LABEL": Record("1", "A dog runs.</s>An animal runs."),
}
# Words and signs that no rationale holds.
STRANGE = ("<|", "|>", "</", "<think", "THINK]", "\\boxed", "Q:", "Question:",
           "Premise:", "**", "So the answer is", "Wait")  # fmt: skip


def outcome(kind, text, expected):
  """How a phrasing comes out: "right", "lost", or "wrong" in silence."""
  record = RECORDS.get(kind, Record("1", "Why?"))
  completion = Completion(text, finish_reason="stop")
  parsed = completion_parsing.parse(PROMPTS[kind], record, completion)
  allowed = expected.removeprefix("?") if expected else None
  if parsed.status != "ok":
    is_right = expected is None or expected.startswith("?")
    return "right" if is_right else "lost", parsed
  assert parsed.label is not None
  if kind in ("NUMBER", "EXPRESSION"):
    is_right = allowed is not None and arithmetic.value(
      parsed.label
    ) == arithmetic.value(allowed)
  else:
    is_right = parsed.label == allowed
  is_right = is_right and not any(s in parsed.rationale for s in STRANGE)
  return "right" if is_right else "wrong", parsed


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("table", [phrasings_seen, phrasings_held_apart])
def test_phrasings_are_read(table, kind):
  rows = getattr(table, kind, [])
  found = [(outcome(kind, *row)[0], *row) for row in rows]
  assert [row for row in found if row[0] == "wrong"] == []
  lost = [row for row in found if row[0] == "lost"]
  assert len(lost) <= 0.05 * len(rows), lost


def test_the_tables_are_large_enough():
  for kind in PROMPTS:
    assert len(getattr(phrasings_held_apart, kind)) >= 60


@pytest.mark.parametrize("table", [phrasings_seen, phrasings_held_apart])
def test_phrasings_that_run_on_or_think_are_read_alike(table):
  """Whatever is thought before an answer, or invented after it."""
  before = ("", "<think>The answer is 7.</think>\n", "[THINK]7?[/THINK]")
  after = ("", "<|im_end|>", "\n\nQ: Who?\nA: He. The answer is (a).",
           "\n\nUser: And?\nAssistant: So the answer is neutral.")  # fmt: skip
  outcomes: collections.Counter[str] = collections.Counter()
  for kind in PROMPTS:
    for text, expected in getattr(table, kind, ()):
      if expected is None or text.startswith("<") or "<" in text[-30:]:
        continue
      for begin in before:
        for end in after:
          found, parsed = outcome(kind, f"{begin}{text}{end}", expected)
          assert found != "wrong", (text, begin, end, parsed)
          outcomes[found] += 1
  assert outcomes["lost"] <= 0.02 * outcomes.total()
