"""Tables of teachers become plans.

A file holds `[[teacher]]` tables. Their keys are names of fields of `Endpoint`,
`TeacherPlan`, `Sampling` and `AskOptions`, which are also the flags of
`dss-jax extract`; the flags say what a table leaves out:

    [[teacher]]
    name = "small"
    model = "qwen3-8b"
    base_url = "http://127.0.0.1:8000/v1"
    samples = 3
    temperature = 0.7

    [[teacher]]
    teacher = "replay"
    weight = 0.5
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from dss_jax.base import checks, value_types
from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions
from dss_jax.rationales.extraction_plan import AskOptions, Endpoint, TeacherPlan
from dss_jax.rationales.prompts import Prompt
from dss_jax.rationales.teacher_requests import Sampling
from dss_jax.rationales.teachers import RecordTeacher
from dss_jax.rationales.toml_files import read_toml

_KINDS = ("endpoint", "replay", "rules")
# Key of a table -> the type of its value.
_TYPES: dict[str, Any] = {
  "teacher": str,
  **value_types.parameter_types(Endpoint),
  "style": str,
  "samples": int,
  **value_types.parameter_types(Sampling),
  "extra_body": dict,
  "header": tuple[str, ...],
  **value_types.parameter_types(AskOptions),
  "rationale_source": str,
  "error_rate": float,
}
# Their keys are extra_body and header.
del _TYPES["extra"], _TYPES["headers"]


def read_tables(path: str) -> list[dict[str, Any]]:
  """The `[[teacher]]` tables of a file.

  Raises:
    UserError: the file cannot be read, or a key or value is not allowed.
  """
  content = read_toml(path, field="teachers")
  tables = content.pop("teacher", None)
  if content or not isinstance(tables, list) or not tables:
    raise UserError(
      f"{path} must hold [[teacher]] tables only", fields="teachers"
    )
  for number, table in enumerate(tables, 1):
    where = f"{path}, teacher {number}"
    if not isinstance(table, dict):
      raise UserError(f"{where}: write [[teacher]], with two brackets")
    for key, value in table.items():
      _check(where, key, value)
  return tables


def _check(where: str, key: str, value: Any) -> None:
  if key not in _TYPES:
    raise UserError(
      f"{where}: unknown key {key!r}; allowed: {', '.join(_TYPES)}"
    )
  hint = _TYPES[key]
  if not value_types.matches(value, hint) or (
    hint is dict and not isinstance(value, dict)
  ):
    raise UserError(
      f"{where}: {key} is {value!r}; it must be {value_types.describe(hint)}"
    )


def teacher_plan(
  values: Mapping[str, Any],
  *,
  dataset: str | None,
  split: str,
  options: DataOptions,
  prompt: Prompt,
) -> TeacherPlan:
  """One teacher's plan.

  Args:
    values: values by the keys of a table, whatever else there is; a missing
      one has its field's default.
    dataset: name of the dataset that is asked about; None for other records.
    split: split of the dataset.
    options: how the dataset is read.
    prompt: the prompt in whose form a rule teacher answers.

  Raises:
    UserError: values that contradict each other or the data.
  """
  kind = values.get("teacher") or "endpoint"
  checks.one_of("teacher", kind, _KINDS)
  if kind != "endpoint":
    known = _record_teacher(kind, values, dataset, split, options, prompt)
    known.name = values.get("name") or known.name
    return TeacherPlan(known)
  if not values.get("model"):
    raise UserError(
      "no model is named, and only the teachers replay and rules need none",
      fields=("Endpoint.model", "teacher"),
    )
  omit_fields = values.get("omit_fields") or ()
  if isinstance(omit_fields, str):
    omit_fields = omit_fields.split(",")
  endpoint = _fields_of(Endpoint, values) | {
    "name": values.get("name") or values["model"],
    "omit_fields": tuple(n.strip() for n in omit_fields if n.strip()),
    "headers": tuple(map(_header, values.get("header") or ())),
  }
  sampling = _fields_of(Sampling, values) | {
    "stop": tuple(
      text.replace("\\n", "\n") for text in values.get("stop") or ()
    ),
    "extra": _extra_body(values.get("extra_body") or {}),
  }
  ask = _fields_of(AskOptions, values)
  ask.pop("seed", None)  # the key is the sampling's
  plan = {k: values[k] for k in ("style", "samples") if k in values}
  return TeacherPlan(
    Endpoint(**endpoint),
    **plan,
    sampling=Sampling(**sampling),
    ask=AskOptions(**ask),
  )


def _fields_of(options: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  names = [field.name for field in dataclasses.fields(options)]
  return {name: values[name] for name in names if name in values}


def _record_teacher(
  kind: str,
  values: Mapping[str, Any],
  dataset: str | None,
  split: str,
  options: DataOptions,
  prompt: Prompt,
) -> RecordTeacher:
  weight = values.get("weight", 1.0)
  if kind == "rules":
    if dataset != "taxonli":
      raise UserError(
        "the teacher rules knows the dataset taxonli only",
        fields=("teacher", "dataset"),
      )
    from dss_jax.rationales.teachers.rules import TaxonliRules

    return TaxonliRules(
      error_rate=values.get("error_rate", 0.0), prompt=prompt, weight=weight
    )
  if dataset is None:
    raise UserError(
      "the teacher replay is for a released dataset",
      fields=("teacher", "dataset"),
    )
  from dss_jax.rationales.teachers.replay import Replay

  source = values.get("rationale_source") or "palm"
  options = dataclasses.replace(
    options, source="release", rationale_source=source
  )
  return Replay(dataset, split, options, weight=weight)


def _header(text: str) -> tuple[str, str]:
  """Name and value of "Name: value"."""
  name, colon, value = text.partition(":")
  if not colon:
    # Not repeated: it may hold a key.
    raise UserError(
      'a header is not of the form "Name: value"', fields="Endpoint.headers"
    )
  return name.strip(), value.strip()


def _extra_body(value: Any) -> Mapping[str, Any]:
  extra = value
  if isinstance(value, str):
    try:
      extra = json.loads(value)
    except (ValueError, RecursionError):
      extra = None
  if not isinstance(extra, dict):
    raise UserError(
      f"extra_body is {value!r}; it must be a JSON object", fields="extra_body"
    )
  return extra
