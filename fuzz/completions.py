"""What teachers write, read as a rationale and an answer.

An input is a byte that says how often its text is repeated, and the text: what
takes the square of a length in time shows in long texts only.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from dss_jax.base import strict_json
from dss_jax.datasets import completions
from dss_jax.datasets.completions import tolerant_reader, whole_numbers
from dss_jax.datasets.records import Record
from dss_jax.rationales import completion_parsing, prompt_files
from dss_jax.rationales.teacher_requests import Completion
from fuzz.targets import Target, text_of

_CHOICES = ("lake", "the zoo", "(84 / 2)", "")
_REPETITIONS = 128
_TEXTS = (
  "A poodle is a dog. So the answer is (b) the zoo.\n\nQ: What?",
  "48 / 6 = 8 boxes. The answer is (48 / 6).",
  "A man is a person. Answer: entailment\nPremise: A dog.",
  "<think>Hm.</think> **Final answer:** \\boxed{\\frac{3}{4}}",
  '```json\n{"rationale": "It is so.", "answer": 42}\n```',
  "The correct option would be (a) lake. Wait, no: it is B.",
  "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final"
  "<|message|>So the answer is forty-two and a half.<|return|>",
)
_WORDS = (
  "the answer is",
  "The answer is (",
  "Answer:",
  "\\boxed{",
  "<think>",
  "</think>",
  "```json",
  '{"answer":',
  "**",
  "(a)",
  "Wait,",
  "not",
  "either",
  "contradiction",
  "$1,250.50",
  "twenty-five thousand",
  "3/4",
)


def _text(data: bytes) -> str:
  text = text_of(data[1:])
  return text * (_REPETITIONS if data[:1] == b"*" else 1)


def _seeds() -> list[bytes]:
  plain = [b" " + text.encode() for text in _TEXTS]
  return [*plain, *(b"*" + text.encode() for text in _TEXTS)]


def _check(parsed: completions.Parsed) -> None:
  assert parsed.status in completion_parsing.STATUSES, parsed.status
  assert parsed.status != "ok" or parsed.label is not None
  strict_json.dumps([parsed.rationale, parsed.label]).encode("utf-8")


def _official(data: bytes) -> None:
  text = _text(data)
  for dataset in ("cqa", "svamp", "esnli", "anli1"):
    for teacher in ("palm", "gpt-neox"):
      read = completions.parser(dataset, "official", teacher)
      _check(read(text, _CHOICES))


def _some_of(ways: Sequence[Any], data: bytes) -> Sequence[Any]:
  """All ways to read an input, or one where its text is repeated, and long."""
  if data[:1] != b"*":
    return ways
  return [ways[sum(data) % len(ways)]]


_prompt = functools.cache(prompt_files.load)


def _tolerant(data: bytes) -> None:
  text = _text(data)
  forms = (
    *completions.RELEASED_FORMS.values(),
    completions.AnswerForm("number", "Answer:"),
    completions.AnswerForm("text", json_keys=("rationale", "answer")),
  )
  for form in _some_of(forms, data):
    _check(tolerant_reader.read(form, text, _CHOICES))


def _teacher(data: bytes) -> None:
  text = _text(data)
  record = Record("a", "What is it?", meta={"choices": _CHOICES[:3]})
  nli = Record("a", "A dog.</s>An animal.")
  completion = Completion(text, reasoning=text[:100])
  prompts = (("cqa", record), ("svamp", record), ("esnli", nli))
  ways = [
    (name, about, source)
    for name, about in prompts
    for source in completion_parsing.RATIONALE_SOURCES
  ]
  for name, about, source in _some_of(ways, data):
    prompt = _prompt(name)
    _check(
      completion_parsing.parse(prompt, about, completion, rationale_from=source)
    )


def _number(data: bytes) -> None:
  text = _text(data)
  whole_numbers.number_in(text)
  completion_parsing.answer_key("number", text)


TARGETS = {
  "official": Target(_official, _seeds, _WORDS, (), max_bytes=1024),
  "tolerant": Target(_tolerant, _seeds, _WORDS, (), max_bytes=1024),
  "teacher": Target(_teacher, _seeds, _WORDS, (), max_bytes=1024),
  "number": Target(_number, _seeds, _WORDS, (), max_bytes=256),
}
