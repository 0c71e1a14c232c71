"""Prompt files: TOML to `Prompt`, checked so that its answers can be read.

Every exemplar is written as the teacher would write it and parsed again; a
format whose answers the parser would not find is an error when the file is
read, not after the money is spent. The files in `tasks/prompts/` explain the
keys.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import dss_jax
from dss_jax.base import value_types
from dss_jax.base.errors import UserError
from dss_jax.datasets.completions import ANSWER_KINDS
from dss_jax.datasets.records import Record
from dss_jax.rationales import completion_parsing, json_outputs
from dss_jax.rationales.prompts import (
  ANSWER_FORMATS,
  Exemplar,
  Prompt,
  fields_of,
)
from dss_jax.rationales.teacher_requests import Completion
from dss_jax.rationales.toml_files import read_toml

# Far more than a teacher's context holds.
MAX_EXEMPLARS = 256
# OpenAI's endpoints take at most this many stop texts.
MAX_STOP = 4

# Key of a file -> type of its value.
_TYPES = dict(value_types.parameter_types(Prompt))
del _TYPES["name"], _TYPES["exemplars"]
_REQUIRED = ("input_format", "output_format", "answer_kind", "answer_marker")
# What a prompt for outputs in JSON need not say.
_JSON_DEFAULTS = {
  "output_format": json_outputs.DEFAULT_FORMAT,
  "answer_marker": "the answer is",
}

FOLDER = pathlib.Path(dss_jax.__file__).parent / "tasks" / "prompts"


def names() -> tuple[str, ...]:
  """The shipped prompts."""
  return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


# Datasets that are asked about with the prompt of another.
_SHARED = {"anli1": "anli", "anli2": "anli", "anli3": "anli", "asdiv": "svamp"}


def for_dataset(dataset: str) -> str:
  """The name of the shipped prompt for a dataset; some share one.

  Raises:
    UserError: if there is none.
  """
  name = _SHARED.get(dataset, dataset)
  if name not in names():
    raise UserError(
      f"no prompt is shipped for dataset {dataset!r}, only for"
      f" {', '.join(names())}; copy one of {FOLDER} and name that file",
      fields="prompt",
    )
  return name


def load(name_or_path: str | os.PathLike[str]) -> Prompt:
  """The prompt of a file, or the shipped one of that name.

  Raises:
    UserError: there is no such prompt, or the parser would not read what it
      asks for.
  """
  path = pathlib.Path(name_or_path)
  if path.suffix != ".toml":
    if str(name_or_path) not in names():
      raise UserError(
        f"no prompt {str(name_or_path)!r}; allowed: {', '.join(names())}, or"
        " the path of a .toml file",
        fields="prompt",
      )
    path = FOLDER / f"{name_or_path}.toml"
  content = read_toml(path, field="prompt")
  try:
    prompt = from_dict(path.stem, content)
    check(prompt)
  except UserError as error:
    raise UserError(f"{path}: {error}", fields="prompt") from None
  return prompt


def from_dict(name: str, content: Mapping[str, Any]) -> Prompt:
  """A prompt from a file's keys and values.

  Raises:
    UserError: if a key is unknown or missing, or a value of the wrong kind.
  """
  if content.get("answer_format") == "json":
    content = {**_JSON_DEFAULTS, **content}
  _check_keys(content, (*_TYPES, "exemplars"), _REQUIRED)
  values: dict[str, Any] = {
    key: (_text if hint is str else _text_list)(content, key)
    for key, hint in _TYPES.items()
    if key in content
  }
  for key in ("instruction", "rationalise_instruction"):
    values[key] = values.get(key, "").strip()
  listed = content.get("exemplars", [])
  if not isinstance(listed, list) or len(listed) > MAX_EXEMPLARS:
    raise UserError(
      f"exemplars must be at most {MAX_EXEMPLARS} tables [[exemplars]]"
    )
  exemplars = []
  for number, entry in enumerate(listed, 1):
    try:
      exemplars.append(_exemplar(entry, values))
    except UserError as error:
      raise UserError(f"exemplar {number}: {error}") from None
  return Prompt(name=name, exemplars=tuple(exemplars), **values)


def _exemplar(entry: Any, values: Mapping[str, Any]) -> Exemplar:
  if not isinstance(entry, Mapping):
    raise UserError("must be a table")
  parts = tuple(values.get("input_parts", ()))
  inputs = parts if parts and "input" not in entry else ("input",)
  required = (*inputs, "rationale", "label")
  _check_keys(entry, (*required, "choices"), required)
  texts = {key: _text(entry, key).strip() for key in required}
  for key, text in texts.items():
    if not text:
      raise UserError(f"{key} is empty")
  choices = _text_list(entry, "choices") if "choices" in entry else ()
  joined = values.get("input_split", "").join(texts[key] for key in inputs)
  return Exemplar(joined, texts["rationale"], texts["label"], choices)


def _check_keys(
  content: Mapping[str, Any], allowed: Sequence[str], required: Sequence[str]
):
  for key in content:
    if key not in allowed:
      raise UserError(f"unknown key {key!r}; allowed: {', '.join(allowed)}")
  for key in required:
    if key not in content:
      raise UserError(f"key {key!r} is missing")


def _text(content: Mapping[str, Any], key: str) -> str:
  value = content[key]
  if not isinstance(value, str) or "\0" in value:
    raise UserError(f"{key} must be text, got {type(value).__name__}")
  return value


def _text_list(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
  value = content[key]
  if not isinstance(value, list) or not all(
    isinstance(item, str) and item and "\0" not in item for item in value
  ):
    raise UserError(f"{key} must be a list of texts, none of them empty")
  return tuple(value)


def check(prompt: Prompt):
  """Raises UserError unless the parser reads what the prompt asks for."""
  _check_formats(prompt)
  _check_answers(prompt)
  if not prompt.exemplars and not prompt.instruction:
    raise UserError("neither an instruction nor exemplars")
  for number, exemplar in enumerate(prompt.exemplars, 1):
    try:
      _check_exemplar(prompt, exemplar)
    except UserError as error:
      raise UserError(f"exemplar {number}: {error}") from None


def _check_formats(prompt: Prompt):
  if bool(prompt.input_parts) != bool(prompt.input_split):
    raise UserError("input_parts and input_split go together")
  inputs = prompt.input_parts or ("input",)
  reserved = {"input", "choices", "answer", "rationale"}
  clash = reserved.intersection(prompt.input_parts)
  if clash or len(set(inputs)) != len(inputs):
    raise UserError(
      f"input_parts = {list(inputs)}: names must differ from each other and"
      f" from {', '.join(sorted(reserved))}"
    )
  _check_fields("input_format", prompt.input_format, inputs, ("choices",))
  if prompt.rationalise_input_format:
    _check_fields(
      "rationalise_input_format",
      prompt.rationalise_input_format,
      (*inputs, "answer"),
      ("choices",),
    )
  _check_fields("output_format", prompt.output_format, ("rationale", "answer"))
  if fields_of(prompt.output_format) != ("rationale", "answer"):
    raise UserError("output_format must have {rationale}, then {answer}, once")
  if prompt.input_format != prompt.input_format.rstrip(" \t"):
    raise UserError(
      "input_format ends with a space; begin output_format with it instead, as"
      " teachers' tokens do"
    )
  if not prompt.separator.strip(" \t"):
    raise UserError("separator must be more than spaces")
  if len(prompt.stop) > MAX_STOP:
    raise UserError(f"{len(prompt.stop)} stop texts; at most {MAX_STOP}")


def _check_fields(
  key: str, text: str, required: Sequence[str], optional: Sequence[str] = ()
):
  found = fields_of(text)
  for field in found:
    if field not in (*required, *optional):
      allowed = ", ".join(f"{{{name}}}" for name in (*required, *optional))
      raise UserError(f"{key} has {{{field}}}; allowed: {allowed}")
  for field in required:
    if field not in found:
      raise UserError(f"{key} must have {{{field}}}")


def _check_answers(prompt: Prompt):
  if prompt.answer_kind not in ANSWER_KINDS:
    raise UserError(
      f"answer_kind = {prompt.answer_kind!r}; allowed: {', '.join(ANSWER_KINDS)}"
    )
  if not prompt.answer_marker.strip():
    raise UserError("answer_marker is empty")
  if prompt.answer_format not in ANSWER_FORMATS:
    raise UserError(
      f"answer_format = {prompt.answer_format!r}; allowed:"
      f" {', '.join(ANSWER_FORMATS)}"
    )
  if (
    prompt.json_keys is None
    and prompt.answer_marker.lower() not in prompt.output_format.lower()
  ):
    raise UserError(
      f"output_format does not have answer_marker, {prompt.answer_marker!r}"
    )
  spellings = {label.lower().strip() for label in prompt.labels}
  if prompt.answer_kind == "label":
    if len(spellings) < 2 or len(spellings) != len(prompt.labels):
      raise UserError(
        "answer_kind 'label' needs labels: all there are, two or more, each"
        " once in any case"
      )
  elif prompt.labels:
    raise UserError("labels are for answer_kind 'label' only")


def _check_exemplar(prompt: Prompt, exemplar: Exemplar):
  """Its output must be parsed as itself, alone and before another exemplar."""
  record = Record(
    "exemplar", exemplar.input, meta={"choices": exemplar.choices}
  )
  for label in (None, exemplar.label):
    shown = prompt.input_text(exemplar, label)
  output = prompt.output(exemplar)
  for stop in prompt.stop:
    if stop in output:
      raise UserError(f"its output holds the stop text {stop!r}")
  run_on = f"{output}{prompt.separator}{shown}"
  wanted = completion_parsing.Parsed(exemplar.rationale, exemplar.label)
  # A run-on is recognised by the beginning of inputs, where they have one.
  texts = (output, output.strip(), run_on if prompt.form.next_exemplar else "")
  for text in filter(None, texts):
    parsed = completion_parsing.parse(prompt, record, Completion(text))
    if parsed != wanted:
      raise UserError(
        f"its output {output.strip()[-60:]!r} is read as label"
        f" {parsed.label!r} ({parsed.status}), its label is {exemplar.label!r}"
        if parsed.label != wanted.label or parsed.status != "ok"
        else f"its rationale ends {exemplar.rationale[-40:]!r}, and is read as"
        f" ending {parsed.rationale[-40:]!r}; signs that output_format puts behind"
        " {rationale} belong into the rationale"
      )
