"""Completions of one's own teachers: every status, habits of chats, any text."""

import dataclasses

import guards
import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.datasets import completions
from dss_jax.datasets.records import Rationale, Record
from dss_jax.datasets.statistics import UNUSABLE_LABEL
from dss_jax.rationales import completion_parsing, prompt_files
from dss_jax.rationales.completion_parsing import (
  Parsed,
  answer_key,
  parse,
  same_answer,
)
from dss_jax.rationales.prompts import Prompt
from dss_jax.rationales.teacher_requests import Completion

NAMES = ("anli", "cqa", "esnli", "svamp", "taxonli")
PROMPTS = {name: prompt_files.load(name) for name in NAMES}
ZOO = Record(
  "1",
  "Where are the lions?\nAnswer Choices:\n(a) pond\n(b) zoo\n(c) the Alps",
)
NLI = Record("1", "A dog runs.</s>A cat runs.")
SUM = Record("1", "Ann has 3 pens.\nHow many in 4 boxes?")
RECORDS = {"cqa": ZOO, "svamp": SUM}


def _read(name, text, reason="stop", **fields):
  record = RECORDS.get(name, NLI)
  parsed = parse(
    PROMPTS[name], record, Completion(text, finish_reason=reason, **fields)
  )
  return dataclasses.astuple(parsed)


def _prompt(kind, marker="The answer is", **fields):
  return Prompt(
    name="mine",
    input_format="Q: {input}\nA:",
    output_format=f" {{rationale}} {marker} {{answer}}",
    answer_kind=kind,
    answer_marker=marker,
    **fields,
  )


@pytest.mark.parametrize(
  ("name", "text", "reason", "expected"),
  [
    ("cqa", "R. So the answer is (b) zoo.", "stop", ("R.", "zoo", "ok")),
    ("cqa", "R. so, the answer is: Zoo", "stop", ("R.", "zoo", "ok")),
    (
      "cqa",
      "R. So the answer is (c) zoo.",
      "stop",
      ("R.", "zoo", "letter_text_mismatch"),
    ),
    (
      "cqa",
      "R. So the answer is either (a) pond or (b) zoo.",
      "stop",
      ("R.", "pond", "multiple_answers"),
    ),
    (
      "cqa",
      "R. So the answer is (b) aquarium.",
      "stop",
      ("R.", "zoo", "label_not_in_choices"),
    ),
    ("cqa", "R. So the answer is hard.", "stop", ("R.", None, "no_label")),
    ("cqa", "It lives in a zoo", "stop", ("It lives in a zoo", None, "no_marker")),
    ("cqa", "It lives in a zoo", "length", ("", None, "truncated")),
    ("cqa", "It lives in a zoo.", "length", ("", None, "truncated")),
    ("cqa", "R. So the answer is", "length", ("R.", None, "truncated")),
    ("cqa", "R. So the answer is (b) zo", "max_tokens", ("R.", "zoo",
      "label_not_in_choices")),
    ("cqa", "R. So the answer is (b) zoo. A", "length", ("R.", "zoo", "ok")),
    ("cqa", "So the answer is (b) zoo.", "stop", ("", "zoo", "empty")),
    ("cqa", " \n", "stop", ("", None, "empty")),
    ("cqa", "", "length", ("", None, "truncated")),
    ("cqa", "It is", "content_filter", ("", None, "refused")),
    (
      "cqa",
      "I'm sorry, but I can't help with that.",
      "stop",
      ("", None, "refused"),
    ),
    ("cqa", "I\u2019m sorry, no.", "", ("", None, "refused")),
    # Run on into another question: the rest is not this record's.
    (
      "cqa",
      "R. So the answer is (b) zoo.\n\nQ: Who?\nA: So the answer is (a) pond.",
      "length",
      ("R.", "zoo", "ok"),
    ),
    ("cqa", "R.\n\nQ: W?\nA: So the answer is (b) zoo.", "stop",
     ("R.", None, "no_marker")),
    ("anli", "R. So the answer is neutral", "", ("R.", "neutral", "ok")),
    ("anli", "R. So the answer is **Neutral**.", "stop", ("R.", "neutral", "ok")),
    ("anli", "R. So the answer is contra", "length", ("R.", "contradiction", "ok")),
    (
      "anli",
      "R. So the answer is unclear.",
      "stop",
      ("R.", None, "label_not_in_choices"),
    ),
    ("esnli", "R.\nAnswer: entailment", "stop", ("R.", "entailment", "ok")),
    ("esnli", "R.\n**Answer:** neutral", "stop", ("R.", "neutral", "ok")),
    ("svamp", "3 * 4. The answer is (3 * 4).", "", ("3 * 4.", "(3 * 4)", "ok")),
    ("svamp", "R. The answer is (3 \u00d7 4).", "", ("R.", "(3 * 4)", "ok")),
    ("svamp", "R. The answer is **(3 * 4)**.", "", ("R.", "(3 * 4)", "ok")),
    ("svamp", "R. The answer is (3 * 4) = $12.", "", ("R.", "(3 * 4)", "ok")),
    ("svamp", "R. The answer is (3 ** 4).", "", ("R.", None, "unevaluable")),
    ("svamp", "R. The answer is (2**-1).", "", ("R.", None, "unevaluable")),
    ("svamp", "R. The answer is (x * 4).", "", ("R.", None, "unevaluable")),
    ("svamp", "R. The answer is (3 * 4).\n\nThat is 12.", "",
     ("R.", "(3 * 4)", "ok")),
    ("svamp", "R. The answer is (3 * 4) * 2.", "", ("R.", "(3 * 4)", "label_cut")),
    ("svamp", "R. The answer is 12.", "stop", ("R.", None, "no_label")),
    ("svamp", "R. The answer is (3 * ", "length", ("R.", None, "truncated")),
  ],
)  # fmt: skip
def test_statuses(name, text, reason, expected):
  assert _read(name, text, reason) == expected
  assert expected[2] in completion_parsing.STATUSES


def test_refusal_field():
  assert (
    _read("cqa", "So the answer is (b) zoo.", refusal="No.")[2] == "refused"
  )
  assert _read("cqa", "", reason="stop", refusal="No.")[2] == "refused"
  assert "\n  refused " in (completion_parsing.__doc__ or "")


ANSWER = "R. So the answer is (b) zoo."
READ = ("R.", "zoo", "ok")


@pytest.mark.parametrize(
  "text",
  [
    f"A: {ANSWER}",
    f"\n A:{ANSWER}\n",
    f"Q: {ZOO.input}\nA: {ANSWER}",
    f"Q: {ZOO.input}\n\n{ANSWER}",
    f"<think>\nSo the answer is (a) pond.\n</think>\n\n{ANSWER}",
    f"So the answer is (a) pond.</think>A: {ANSWER}",
    ANSWER.replace("\n", "\r\n"),
    "R. So the answer is **(b) zoo**.",
    "R. **So the answer is (b) zoo.**",
    "R.\n\n**So the answer is:** (b) zoo\n",
    f"{ANSWER} I hope this helps!",
    "R. The correct answer is: (b) zoo",
    f"{ANSWER}\n\nThe others, (a) pond and (c) the Alps, are no homes.",
  ],
)
def test_habits_of_chats(text):
  assert _read("cqa", text) == READ


THOUGHT = "Could it be the pond? Lions live in zoos."


@pytest.mark.parametrize(
  ("text", "reasoning", "source", "expected"),
  [
    (ANSWER, THOUGHT, "answer", READ),
    (ANSWER, THOUGHT, "reasoning", (THOUGHT, "zoo", "ok")),
    (ANSWER, THOUGHT, "both", (f"{THOUGHT}\n\nR.", "zoo", "ok")),
    (ANSWER, None, "both", READ),
    (ANSWER, None, "reasoning", ("", "zoo", "empty")),
    ("(b) zoo", THOUGHT, "reasoning", (THOUGHT, "zoo", "ok")),
    ("**(b)**", THOUGHT, "both", (THOUGHT, "zoo", "ok")),
    ("(b) zoo", THOUGHT, "answer", ("", "zoo", "empty")),
    (f"<think>{THOUGHT}</think>(b) zoo", None, "reasoning",
     (THOUGHT, "zoo", "ok")),
    (f"[THINK]{THOUGHT}[/THINK]{ANSWER}", None, "both",
     (f"{THOUGHT}\n\nR.", "zoo", "ok")),
    # Nothing is said: what was thought is no answer.
    ("", f"{THOUGHT} The answer is (b) zoo.", "reasoning", ("", None, "empty")),
    ("It depends.", THOUGHT, "reasoning", ("It depends.", None, "no_marker")),
    ("The answer is (a) or (b).", THOUGHT, "reasoning",
     ("", "pond", "multiple_answers")),
    (ANSWER, "Zoo.<|im_end|>", "reasoning", ("", "zoo", "markup")),
    (ANSWER, "\0\ud800", "reasoning", ("\ufffd\ufffd", "zoo", "ok")),
  ],
)  # fmt: skip
def test_reasoning_as_a_rationale(text, reasoning, source, expected):
  completion = Completion(text, reasoning=reasoning)
  parsed = parse(PROMPTS["cqa"], ZOO, completion, rationale_from=source)
  assert dataclasses.astuple(parsed) == expected


def test_a_rationale_in_tags_that_a_prompt_may_ask_for():
  text = "<rationale>R.</rationale>\n<answer>(b) zoo</answer>"
  assert _read("cqa", text) == READ
  assert _read("cqa", f"<reasoning>Hm.</reasoning>{ANSWER}") == READ
  text = "<think>R.</think><answer>(b) zoo</answer>"
  assert _read("cqa", text) == ("", "zoo", "empty")


def test_tokens_within_a_rationale_are_seen():
  for text in ("R <unk>.", "R </s> r.", "The tag <think> is odd.",
               "R. <|im_start|> R."):  # fmt: skip
    assert _read("cqa", f"{text} {ANSWER}") == ("", "zoo", "markup")
    # Behind the answer they end what belongs to the record.
    assert _read("cqa", f"{ANSWER} {text} Wait. The answer is (a).") == READ
  assert _read("cqa", f"R.<|im_end|>{ANSWER}")[2] == "no_marker"
  assert "markup" in UNUSABLE_LABEL
  assert "\n  markup " in (completion_parsing.__doc__ or "")


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    # A second thought withdraws an answer, and a confirmation does not.
    (f"{ANSWER} Wait, it could be (a).", ("R.", "zoo", "multiple_answers")),
    (f"{ANSWER} No, actually the answer is (a) pond.",
     ("R.", "zoo", "multiple_answers")),
    (f"{ANSWER}\n\nActually, the answer is (a) pond.",
     ("R.", "zoo", "multiple_answers")),
    (f"{ANSWER}\n\nOn second thought, it is (a).",
     ("R.", "zoo", "multiple_answers")),
    (f"{ANSWER} The answer is (a) pond.", ("R.", "zoo", "multiple_answers")),
    (f"{ANSWER} None of the choices fits.", ("R.", "zoo", "multiple_answers")),
    (f"{ANSWER} Wait, let me check. Yes, the answer is (b) zoo.", READ),
    (f"{ANSWER}\n\nThe answer is (b) zoo.", READ),
    # Without a word of doubt it is an example that was invented.
    (f"{ANSWER}\n\nFish swim. So the answer is (a) pond.", READ),
    # A correction before the answer is part of the reasons for it.
    ("Ponds? Wait, no: lions. So the answer is (b) zoo.",
     ("Ponds? Wait, no: lions.", "zoo", "ok")),
    # Steps and hypotheses are no answers.
    ("If the answer is (a), they swim. So the answer is (b) zoo.",
     ("If the answer is (a), they swim.", "zoo", "ok")),
    ("The answer must be a place, not a pond. So the answer is (b) zoo.",
     ("The answer must be a place, not a pond.", "zoo", "ok")),
    ("R. The closest answer is a zoo. So the answer is (b) zoo.",
     ("R. The closest answer is a zoo.", "zoo", "ok")),
    ("The answer is (b) zoo. So the answer is (b) zoo.", ("", "zoo", "empty")),
    ("The answer is (b). Lions live there. So the answer is (b) zoo.",
     ("Lions live there.", "zoo", "ok")),
    ("Consider each choice:\n(a) is wet.\nThe answer is (b).",
     ("Consider each choice:\n(a) is wet.", "zoo", "ok")),
    # An answer that is called wrong, or another's, is not the writer's.
    ("A tempting but wrong answer is (a) pond. So the answer is (b) zoo.",
     ("A tempting but wrong answer is (a) pond.", "zoo", "ok")),
    ("The most common wrong answer is (a) pond.",
     ("The most common wrong answer is (a) pond.", None, "no_marker")),
    ("Wrong answer: (a)\nR. The answer is (b).", ("Wrong answer: (a)\nR.", "zoo", "ok")),
    # Own headings are part of the reasons, before an answer.
    ("Think.\nProblem: lions.\nR. The answer is (b).",
     ("Think.\nProblem: lions.\nR.", "zoo", "ok")),
    (f"{ANSWER}\nProblem: fish.\nWait. The answer is (a).", READ),
    ("R.\n\nQuestion: Fish?\nAnswer: The answer is (a).", ("R.", None, "no_marker")),
    ("R.\n\n(b) zoo\n\nQuestion: Fish?\nThe answer is (a).", READ),
    # Words of doubt count where another answer follows.
    (f"{ANSWER} Actually, this is well known.", READ),
    (f"{ANSWER} I was asked for one choice only.", READ),
    (f"{ANSWER} Sorry if it is short.", READ),
    (f"{ANSWER} Re-reading the question confirms this.", READ),
    (f"{ANSWER} Actually, it may be (a).", ("R.", "zoo", "multiple_answers")),
    (f"{ANSWER} Re-reading it, the Alps fit.", ("R.", "zoo", "multiple_answers")),
    # JSON is held to the same rules.
    ('{"rationale": "R.", "answer": ["(b)", "(a)"]}',
     ("R.", "zoo", "multiple_answers")),
    ('{"rationale": "R.", "answer": ["(b)", "zoo"]}', READ),
    ('{"rationale": "R.", "answer": "(b)", "Answer": "(a)"}',
     ("R.", "zoo", "multiple_answers")),
    ('{"rationale": "R.", "answer": "(b)"}\n\nWait, the answer is (a).',
     ("R.", "zoo", "multiple_answers")),
    ('{"rationale": "R.", "answer": {"x": "(b)"}}', ("", None, "no_marker")),
    ('{"lions": 1}\nR. So the answer is (b) zoo.', READ),
    ('{"rationale": "R.", "answer": "(b) zo', ("", None, "no_marker")),
    ('{"rationale": "R.", "answer": "(b) zoo"}\n{"answer": "(a)"}', READ),
    ('R.\n\n```json\n{"answer": "(b)"}\n```', READ),
    (f'{ANSWER}\n\n{{"rationale": "No.", "answer": "(a)"}}', READ),
  ],
)  # fmt: skip
def test_the_first_answer_counts(text, expected):
  assert _read("cqa", text) == expected


def test_only_its_own_question_is_taken_for_an_echo():
  # The question's own words may be the first step.
  step = "Ann has 3 pens.\nThe answer is (3 * 4)."
  assert _read("svamp", step) == ("Ann has 3 pens.", "(3 * 4)", "ok")
  text = f"Q: Who?\nA: {ANSWER}"
  assert _read("cqa", text) == ("", None, "no_marker")
  assert _read("cqa", f"Q: {ZOO.input}") == ("", None, "empty")
  assert _read("cqa", "<think>What is a zoo") == ("", None, "empty")
  assert _read("cqa", "<think>What", "length") == ("", None, "truncated")


@pytest.mark.parametrize(
  ("text", "label", "status"),
  [
    ("R. The answer is 42.", "42", "ok"),
    ("R. The answer is $1,250.50 per year.", "1250.50", "ok"),
    ("R. The answer is 6 * 7 = 42 pens.", "42", "ok"),
    ("R. The answer is \\boxed{-7}", "-7", "ok"),
    ("R. The answer is \u22127.", "-7", "ok"),
    ("R. The answer is many.", None, "no_label"),
    ("R. The answer is " + "9" * 50, None, "unevaluable"),
  ],
)
def test_numbers(text, label, status):
  prompt = _prompt("number")
  assert parse(prompt, SUM, Completion(text)) == Parsed("R.", label, status)


def test_a_number_or_text_that_was_cut_off_is_no_answer():
  for kind in ("number", "text"):
    cut = Completion("R. The answer is 12", finish_reason="length")
    assert parse(_prompt(kind), SUM, cut) == Parsed("R.", None, "truncated")
    whole = Completion("R. The answer is 12.", finish_reason="length")
    assert parse(_prompt(kind), SUM, whole) == Parsed("R.", "12")


def test_labels_of_several_words():
  prompt = _prompt(
    "label", "Verdict:", labels=("true", "not true", "not enough info", "C++")
  )

  def read(answer, reason="stop"):
    text = f"R. Verdict: {answer}"
    parsed = parse(prompt, SUM, Completion(text, finish_reason=reason))
    return parsed.label or parsed.status

  assert read("True.") == read("  'true'") == "true"
  assert read("Not enough INFO, I think") == "not enough info"
  assert read("not enough", "length") == "not enough info"
  assert read("not", "length") == "truncated"
  assert read("truest") == "label_not_in_choices"
  assert read("c++!") == "C++"
  assert read("...") == "no_label"


def test_text_is_the_rest_of_the_line():
  prompt = _prompt("text")
  text = "R. The answer is the U.S..\n\nI hope this helps."
  assert parse(prompt, SUM, Completion(text)) == Parsed("R.", "the U.S.")


def test_official_parser_is_for_released_prompts_only():
  text = "R. So the answer is neutral."
  read = {"parser": "official"}
  parsed = parse(PROMPTS["anli"], NLI, Completion(text), **read)
  assert parsed == completions.official_reader.official_anli(text, None)
  other = Completion("\n R. The answer is neutral.", model="gpt-neox")
  assert parse(PROMPTS["anli"], NLI, other, **read).label == "neutral"
  with pytest.raises(
    UserError, match="no official parser for prompt 'taxonli'"
  ):
    parse(PROMPTS["taxonli"], NLI, Completion(text), **read)
  with pytest.raises(UserError, match="must be one of tolerant, official"):
    parse(PROMPTS["anli"], NLI, Completion(text), "strict")
  with pytest.raises(
    UserError, match="rationale_from is both, and the officia"
  ):
    parse(PROMPTS["anli"], NLI, Completion(text), "official", "both")
  with pytest.raises(UserError, match="must be one of answer, reasoning, both"):
    parse(PROMPTS["anli"], NLI, Completion(text), rationale_from="thoughts")


def test_same_answer():
  assert same_answer("expression", "( 84.0 / 2.0 )", "(84 / 2)")
  assert same_answer("expression", "(40 + 2)", "(84 / 2)")
  assert same_answer("expression", "(0 * -1)", "(1 - 1)")
  assert not same_answer("expression", "(x)", "(x)")
  assert same_answer("number", "1,250", "1250.0")
  assert not same_answer("number", "1250", "1251")
  assert same_answer(PROMPTS["cqa"], "French  Capital", "french capital ")
  assert not same_answer("text", "a", "b")
  with pytest.raises(UserError, match="answer kind 'essay'; allowed"):
    same_answer("essay", "a", "b")


@hypothesis.given(
  st.sampled_from(("expression", "number", "text")),
  st.text("0123456789.+-*/(), xX"),
  st.text("0123456789.+-*/(), xX"),
)
def test_equal_keys_mean_the_same_answer(kind, first, second):
  key = answer_key(kind, first)
  equal = key == answer_key(kind, second)
  valued = kind == "text" or not key.startswith("?")
  assert same_answer(kind, first, second) == (equal and valued)


# --- any text ----------------------------------------------------------------

PIECES = st.sampled_from(
  ["So the answer is", " the answer is ", "Answer:", "(a)", "(b) zoo", "zoo",
   "(3 * 4)", "((", "))", "neutral", "entail", "\nQ:", "\n\nPremise:", "A:",
   "**", "</think>", "<think>", "\0", "\ud800", "\u2028", "\r\n", "<", "{answer}",
   "I'm sorry", ".", "\n", "Wait, ", "**Answer:**", "\\boxed{", "}", "[THINK]",
   "<|im_end|>", '{"answer": "', '"}', "```", "\n\n", " or ", "1 1/2"]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
  st.sampled_from(NAMES),
  TEXTS,
  st.sampled_from(("stop", "length", "", "content_filter", "tool_calls")),
  st.sampled_from(("tolerant", "official")),
)
def test_any_text_is_read(name, text, reason, parser):
  if name == "taxonli" and parser == "official":
    return
  record = RECORDS.get(name, NLI)
  completion = Completion(text, finish_reason=reason)
  parsed = parse(PROMPTS[name], record, completion, parser)
  assert parsed.status in completion_parsing.STATUSES
  # What was read fits into a record.
  Rationale(parsed.rationale, parsed.label, "teacher", status=parsed.status)
  if parsed.label is None:
    assert parsed.status != "ok"
  elif parser == "tolerant":
    allowed = PROMPTS[name].labels or ("pond", "zoo", "the Alps")
    assert name == "svamp" or parsed.label in allowed
  if parsed.status == "ok":
    assert parsed.rationale.strip()


@hypothesis.given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_choices_of_any_kind(text, question, choices):
  record = Record("1", f"?{question}".replace("\0", "").encode(
    "utf-8", "replace").decode(), meta={"choices": choices})  # fmt: skip
  completion = Completion(f"R. So the answer is (a) {text}")
  parsed = parse(PROMPTS["cqa"], record, completion)
  Rationale(parsed.rationale, parsed.label, status=parsed.status)


BULKS = ["\n", " ", "(", ")", "(a)", "so ", "so", "**", " **", "**a", "Answer:",
  "the answer is ", "Q", "\nQ", "\n ", '."', '"', "A:", "\nA:", "9", "9,", "-",
  "1+", "</think>", "<think>", "or ", ", or", "\x85", "entail", "\r", "sorry ",
  "Where are the lions?\n", "answer: ", "the answer is 8 ", "wait, ", "\\boxed{",
  "{", "$", "`", "<|x|>", "the the ", "So, therefore, ", "(b) is ", "1,", "1 ",
  "the answer is not ", "<answer>", '{"answer":', "[", "*a", "\nQuestion: ",
  "\\frac{1}{2}", "(a) or ", "actually, ", "\nProblem: 1", "</s>", "<unk> ", "½", "^2", "[THINK]"]  # fmt: skip
PROMPTS_OF_ALL_KINDS = (
  *PROMPTS.values(),
  _prompt("number"),
  _prompt("text"),
  _prompt("label", labels=("yes", "not now", "n" * 50)),
)


@pytest.mark.slow
@pytest.mark.parametrize(
  "length", [8_000, pytest.param(300_000, marks=pytest.mark.thorough)]
)
def test_time_grows_with_the_length_only(length):
  """A quadratic step would take a minute, or hours on the longer text."""
  for bulk in BULKS:
    text = bulk * (length // len(bulk))
    for prompt in PROMPTS_OF_ALL_KINDS:
      if length > 8_000 and prompt.name not in ("cqa", "svamp", "esnli"):
        continue
      record = RECORDS.get(prompt.name, NLI)
      for begin in ("", f"R. {prompt.answer_marker} ")[length > 8_000 :]:
        with guards.cpu_limit(10 + length / 2e4):
          parse(prompt, record, Completion(begin + text, finish_reason=""))
          if prompt.name in ("cqa", "svamp", "esnli", "anli"):
            parse(prompt, record, Completion(begin + text), "official")
