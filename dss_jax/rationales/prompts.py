"""Prompts: a prompt file and a record become a request to a teacher.

A prompt is a few exemplars, each an input with its rationale and its label,
and the formats in which they and the record's input are written. It comes from
a TOML file, one that is shipped (`tasks/prompts/NAME.toml`) or your own:

    prompt = prompt_files.load("cqa")
    prompt.request(record, style="completion", model="my-model")
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.base import checks, strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.completions import AnswerForm
from dss_jax.datasets.records import Record
from dss_jax.rationales import json_outputs
from dss_jax.rationales.teacher_requests import (
  STYLES,
  Message,
  Request,
  Sampling,
)

ANSWER_FORMATS = ("text", "json")

_FIELD = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"\s*\(([A-Za-z])\)\s*(\S.*)")


@dataclasses.dataclass(frozen=True)
class Exemplar:
  """An input that is shown with its rationale and label.

  Attributes:
    input: the input, as a record has it.
    rationale: what leads to the label.
    label: the label, in the dataset's spelling.
    choices: the choices, as in a record's `meta["choices"]`, where the input
      does not list them.
  """

  input: str
  rationale: str
  label: str
  choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prompt:
  """Everything that a teacher is sent, apart from the record.

  Formats hold fields in braces; anything else in them stands for itself.

  Attributes:
    name: the file's name without its ending.
    input_format: how an input is shown, with {input}, or the names in
      `input_parts`, and {choices} where the input does not list them.
    output_format: how the teacher is to continue, with {rationale} and
      {answer}; it follows the input with nothing between.
    answer_kind: see `AnswerForm`.
    answer_marker: the words of `output_format` before the answer.
    labels: all there are, for kind "label".
    instruction: what to do; heads the text, or is the chat's system message.
    rationalise_instruction: the instruction where the prompt shows the label.
    rationalise_input_format: `input_format` with the label as {answer}.
    input_split: the text between the parts of an input; "" if it has none.
    input_parts: the names of the parts, in order.
    separator: between exemplars.
    stop: texts that end a completion; a chat's turns end by themselves.
    exemplars: in the order shown.
    answer_format: "text", or "json" for outputs that are JSON objects with a
      field for the rationale and one for the answer. Chats are then asked for
      it by a schema, where the endpoint knows such.
  """

  name: str
  input_format: str
  output_format: str
  answer_kind: str
  answer_marker: str
  labels: tuple[str, ...] = ()
  instruction: str = ""
  rationalise_instruction: str = ""
  rationalise_input_format: str = ""
  input_split: str = ""
  input_parts: tuple[str, ...] = ()
  separator: str = "\n\n"
  stop: tuple[str, ...] = ()
  exemplars: tuple[Exemplar, ...] = ()
  answer_format: str = "text"

  @functools.cached_property
  def sha256(self) -> str:
    """Hash, in hex, of what the file says; not of its name or comments."""
    content = dataclasses.asdict(self)
    del content["name"]
    if self.answer_format == "text":
      del content["answer_format"]  # older hashes stay
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

  @functools.cached_property
  def form(self) -> AnswerForm:
    """How answers are read."""
    return AnswerForm(
      kind=self.answer_kind,
      # A model that does not keep to JSON says it in words.
      marker="the answer is" if self.json_keys else self.answer_marker,
      next_exemplar=_FIELD.split(self.input_format, maxsplit=1)[0].strip(),
      labels=self.labels,
      json_keys=self.json_keys,
    )

  @functools.cached_property
  def json_keys(self) -> tuple[str, str] | None:
    """The keys of rationale and answer in outputs; None if they are no JSON.

    Raises:
      UserError: the output's format is no object of these two fields.
    """
    if self.answer_format != "json":
      return None
    return json_outputs.keys_of(self.output_format)

  @functools.cached_property
  def response_format(self) -> Mapping[str, Any] | None:
    """The `response_format` of a chat's request, for outputs in JSON."""
    if self.json_keys is None:
      return None
    return json_outputs.response_format(
      self.name, self.json_keys, self.answer_kind, self.labels
    )

  @property
  def lead(self) -> str:
    """What stands between the input and the output: "A:"."""
    return _lead(self.input_format).strip()

  @functools.cached_property
  def _line_starts(self) -> tuple[str, ...]:
    """What lines of the format begin with: "Q:", "A:"."""
    starts = (
      _FIELD.split(line, maxsplit=1)[0].strip()
      for line in self.input_format.split("\n")
    )
    return tuple(filter(None, (*starts, self.separator.strip())))

  def request(
    self,
    record: Record,
    *,
    style: str,
    model: str,
    sampling: Sampling | None = None,
    sample: int = 0,
    label: str | None = None,
  ) -> Request:
    """What to send for a record.

    Args:
      record: the record whose input is asked about.
      style: one of STYLES.
      model: the teacher's name of itself.
      sampling: how answers are drawn; in completion style, without stop texts,
        it gets the prompt's.
      sample: which of several draws.
      label: if given, the prompt shows this answer and asks why.

    Raises:
      UserError: if the style is unknown, or the record lacks what the formats
        need.
    """
    checks.one_of("TeacherPlan.style", style, STYLES)
    sampling = sampling or Sampling()
    prompt: str | tuple[Message, ...]
    if style == "chat":
      prompt = self.messages(record, label)
    else:
      prompt = self.text(record, label)
      if not sampling.stop:
        sampling = dataclasses.replace(sampling, stop=self.stop)
    response_format = self.response_format if style == "chat" else None
    return Request(model, prompt, sampling, sample, response_format)

  def text(self, record: Record, label: str | None = None) -> str:
    """The prompt as one text to continue, with no space at its end."""
    with_answer = label is not None
    instruction = self._instruction(with_answer)
    parts = [instruction] if instruction else []
    for exemplar, shown in zip(self.exemplars, self._shown[with_answer]):
      parts.append(shown + self.output(exemplar))
    parts.append(self.input_text(record, label))
    return self.separator.join(parts).rstrip(" \t")

  def messages(
    self, record: Record, label: str | None = None
  ) -> tuple[Message, ...]:
    """The prompt as turns of a chat."""
    with_answer = label is not None
    turns: list[Message] = []
    if instruction := self._instruction(with_answer):
      turns.append(("system", instruction))
    # A chat's answer begins a turn of its own, without "A:".
    lead = _lead(self._format(with_answer))
    for exemplar, shown in zip(self.exemplars, self._shown[with_answer]):
      turns.append(("user", shown.removesuffix(lead).strip()))
      turns.append(("assistant", self.output(exemplar).strip()))
    shown = self.input_text(record, label)
    turns.append(("user", shown.removesuffix(lead).strip()))
    return tuple(turns)

  def input_text(
    self, record: Record | Exemplar, label: str | None = None
  ) -> str:
    """One input in its format, up to where the output begins.

    Args:
      record: or exemplar, whose input it is.
      label: if given, the format of rationalisation shows it.

    Raises:
      UserError: if the input does not have the parts, or there are no choices.
    """
    values = self._input_values(record)
    if label is not None:
      values["answer"] = self.answer(label, choices_of(record))
    return _fill(self._format(label is not None), values)

  def output(self, exemplar: Exemplar) -> str:
    """An exemplar's rationale and answer in their format."""
    return self.output_text(
      exemplar.rationale, exemplar.label, choices_of(exemplar)
    )

  def output_text(
    self, rationale: str, label: str, choices: Sequence[str] = ()
  ) -> str:
    """A rationale and an answer as the teacher is to write them."""
    answer = self.answer(label, choices)
    if self.json_keys:
      answer = json_outputs.answer_value(self.answer_kind, answer)
      rationale = strict_json.dumps(rationale)
    values = {"rationale": rationale, "answer": answer}
    return _fill(self.output_format, values)

  def answer(self, label: str, choices: Sequence[str] = ()) -> str:
    """A label as an answer: "math problem" becomes "(d) math problem"."""
    if self.answer_kind == "choice" and label in choices[:26]:
      return f"({chr(ord('a') + list(choices).index(label))}) {label}"
    return label

  def with_exemplars(self, count: int) -> Prompt:
    """The prompt with only its first exemplars, for short contexts.

    Raises:
      UserError: if it does not have as many.
    """
    if not 0 <= count <= len(self.exemplars):
      raise UserError(
        f"{count} exemplars asked of prompt {self.name!r}, which has 0 to"
        f" {len(self.exemplars)}",
        fields="num_exemplars",
      )
    if not count and not self.instruction:
      raise UserError(
        f"without exemplars prompt {self.name!r}, which has no instruction,"
        " asks for nothing",
        fields="num_exemplars",
      )
    return dataclasses.replace(self, exemplars=self.exemplars[:count])

  def _instruction(self, with_answer: bool) -> str:
    return (with_answer and self.rationalise_instruction) or self.instruction

  def _format(self, with_answer: bool) -> str:
    if not with_answer:
      return self.input_format
    return self.rationalise_input_format or _with_answer(self.input_format)

  @functools.cached_property
  def _shown(self) -> Mapping[bool, tuple[str, ...]]:
    """The exemplars' inputs, without (False) and with (True) their labels."""
    return {
      with_answer: tuple(
        self.input_text(exemplar, exemplar.label if with_answer else None)
        for exemplar in self.exemplars
      )
      for with_answer in (False, True)
    }

  def _input_values(self, record: Record | Exemplar) -> dict[str, str]:
    values: dict[str, str] = {}
    if not self.input_parts:
      values["input"] = self._without_format(record.input)
    else:
      parts = record.input.split(self.input_split)
      if len(parts) != len(self.input_parts):
        raise UserError(
          f"{_name(record)}: the input has {len(parts)} parts around"
          f" {self.input_split!r}, prompt {self.name!r} wants"
          f" {len(self.input_parts)}: {', '.join(self.input_parts)}"
        )
      values |= zip(self.input_parts, map(self._without_format, parts))
    if "{choices}" in self.input_format:
      choices = choices_of(record)
      if not choices:
        raise UserError(
          f"{_name(record)}: prompt {self.name!r} shows choices, and the record"
          " has none in meta['choices']"
        )
      values["choices"] = "\n".join(
        f"({chr(ord('a') + i)}) {self._without_format(choice)}"
        for i, choice in enumerate(choices[:26])
      )
    return values

  def _without_format(self, text: str) -> str:
    """The text, so that no part of it looks like the format around it.

    Blank lines are removed, and a line that begins like one of the format, such
    as "Q:", is joined to the line before: all words stay, and no input can pose
    as an exemplar.
    """
    kept: list[str] = []
    for line in text.strip().splitlines():
      words = line.strip()
      if words.startswith(self._line_starts):
        kept.append(f" {words}")
      elif words:
        kept.append(f"\n{line.rstrip()}")
    return "".join(kept).strip()


def choices_of(record: Record | Exemplar) -> tuple[str, ...]:
  """The choices of a record: `meta["choices"]`, or lines "(a) ..." of it."""
  if isinstance(record, Exemplar):
    listed: Any = record.choices
  else:
    listed = record.meta.get("choices")
  if listed and isinstance(listed, Sequence) and not isinstance(listed, str):
    return tuple(str(choice) for choice in listed)
  found: list[str] = []
  for line in record.input.splitlines():
    match = _CHOICE.fullmatch(line)
    if match and match[1].lower() == chr(ord("a") + len(found)):
      found.append(match[2].strip())
  return tuple(found)


def _name(record: Record | Exemplar) -> str:
  return f"record {record.id}" if isinstance(record, Record) else "an exemplar"


def _lead(input_format: str) -> str:
  """The last line of a format, if it only leads to the output."""
  tail = _FIELD.split(input_format)[-1]
  line = tail[tail.rfind("\n") :] if "\n" in tail else ""
  return line if line.rstrip().endswith(":") else ""


def _with_answer(input_format: str) -> str:
  """The format with one more line before the one that leads to the output."""
  lead = _lead(input_format)
  head = input_format.removesuffix(lead).rstrip()
  return f"{head}\nThe correct answer is {{answer}}. Explain why.{lead}"


def _fill(text: str, values: Mapping[str, str]) -> str:
  """The fields' values, which may themselves hold braces, in one pass."""
  return _FIELD.sub(lambda match: values.get(match[1], match[0]), text)


def fields_of(text: str) -> tuple[str, ...]:
  """The names in braces, in order."""
  return tuple(_FIELD.findall(text))
