"""Flags and files of teachers become plans.

A file holds `[[teacher]]` tables whose keys are names of `dss-jax extract`'s
flags; what a table does not say, the flags say:

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

import json
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions
from dss_jax.rationales.asking.request_loop import AskOptions
from dss_jax.rationales.extraction_plan import Endpoint, TeacherPlan
from dss_jax.rationales.prompts import Prompt
from dss_jax.rationales.requests import Sampling
from dss_jax.rationales.teachers import RecordTeacher

# Key of a table -> types that TOML may give it.
_TYPES: dict[str, tuple[type, ...]] = {
  "teacher": (str,),
  "name": (str,),
  "model": (str,),
  "base_url": (str,),
  "api_key_env": (str,),
  "api_version": (str,),
  "weight": (int, float),
  "style": (str,),
  "samples": (int,),
  "temperature": (int, float),
  "top_p": (int, float),
  "max_tokens": (int,),
  "seed": (int,),
  "stop": (list,),
  "extra_body": (dict,),
  "max_tokens_field": (str,),
  "omit_fields": (list,),
  "concurrency": (int,),
  "requests_per_minute": (int, float),
  "tokens_per_minute": (int, float),
  "timeout_s": (int, float),
  "max_attempts": (int,),
  "give_up_after_s": (int, float),
  "rationale_source": (str,),
  "error_rate": (int, float),
}
_KINDS = ("endpoint", "replay", "rules")
_MAX_BYTES = 1 << 20


def read_tables(path: str) -> list[dict[str, Any]]:
  """The `[[teacher]]` tables of a file.

  Raises:
    UserError: a file that cannot be read, or a key or value that is none.
  """
  try:
    with pathlib.Path(path).expanduser().open("rb") as file:
      content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
      raise UserError(f"{path} is larger than 1 MiB (--teachers)")
    found = tomllib.loads(content.decode("utf-8"))
  except OSError as error:
    raise UserError(
      f"cannot read {path}: {error.strerror or error} (--teachers)"
    ) from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
    raise UserError(f"{path} is no TOML file: {error} (--teachers)") from None
  tables = found.pop("teacher", None)
  if found or not isinstance(tables, list) or not tables:
    raise UserError(f"{path} must hold [[teacher]] tables only (--teachers)")
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
  if isinstance(value, bool) or not isinstance(value, _TYPES[key]):
    kinds = " or ".join(kind.__name__ for kind in _TYPES[key])
    raise UserError(f"{where}: {key} is {value!r}; it must be of type {kinds}")
  if isinstance(value, list) and not all(isinstance(v, str) for v in value):
    raise UserError(f"{where}: {key} is {value!r}; it must be a list of texts")


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
    values: by the names of the flags.
    dataset: that is asked about; None for a file of one's own.
    split: of it.
    options: how it is read.
    prompt: in whose form a rule teacher answers.

  Raises:
    UserError: values that contradict each other or the data.
  """
  kind = values["teacher"] or "endpoint"
  if kind not in _KINDS:
    raise UserError(f"teacher is {kind!r}; allowed: {', '.join(_KINDS)}")
  if kind != "endpoint":
    known = _record_teacher(kind, values, dataset, split, options, prompt)
    known.name = values["name"] or known.name
    return TeacherPlan(known)
  if not values["model"]:
    raise UserError(
      "no model is named: --model (as the endpoint names it), or"
      " --teacher=replay or rules, which need none"
    )
  ask = {
    name: values[name]
    for name in (
      "concurrency",
      "requests_per_minute",
      "tokens_per_minute",
      "timeout_s",
      "max_attempts",
      "give_up_after_s",
      "max_cost",
      "retry_failed",
    )
  }
  return TeacherPlan(
    Endpoint(
      name=values["name"] or values["model"],
      model=values["model"],
      weight=values["weight"],
      base_url=values["base_url"],
      api_key_env=values["api_key_env"],
      api_version=values["api_version"],
      timeout_s=values["timeout_s"],
      max_tokens_field=values["max_tokens_field"],
      omit_fields=_names(values["omit_fields"]),
    ),
    style=values["style"],
    samples=values["samples"],
    sampling=_sampling(values),
    ask=AskOptions(**ask),
  )


def _record_teacher(
  kind: str,
  values: Mapping[str, Any],
  dataset: str | None,
  split: str,
  options: DataOptions,
  prompt: Prompt,
) -> RecordTeacher:
  if kind == "rules":
    if dataset != "taxonli":
      raise UserError("--teacher=rules knows taxonli only (--dataset=taxonli)")
    from dss_jax.rationales.teachers.rules import TaxonliRules

    return TaxonliRules(
      error_rate=values["error_rate"], prompt=prompt, weight=values["weight"]
    )
  if dataset is None:
    raise UserError("--teacher=replay is for a released --dataset")
  import dataclasses

  from dss_jax.rationales.teachers.replay import Replay

  source = values["rationale_source"] or "palm"
  return Replay(
    dataset,
    split,
    dataclasses.replace(options, source="release", rationale_source=source),
    weight=values["weight"],
  )


def _sampling(values: Mapping[str, Any]) -> Sampling:
  extra = values["extra_body"]
  if isinstance(extra, str):
    try:
      extra = json.loads(extra)
    except (ValueError, RecursionError):
      extra = None
  if not isinstance(extra, dict):
    raise UserError(
      f"--extra_body is {values['extra_body']!r}; it must be a JSON object"
    )
  stop = tuple(text.replace("\\n", "\n") for text in values["stop"] or ())
  for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1)):
    if not low <= values[name] <= high:
      raise UserError(f"--{name} is {values[name]}; allowed: {low} to {high}")
  if values["max_tokens"] < 1:
    raise UserError(f"--max_tokens is {values['max_tokens']}; allowed: from 1")
  return Sampling(
    temperature=values["temperature"],
    top_p=values["top_p"],
    max_tokens=values["max_tokens"],
    stop=stop,
    seed=values["seed"],
    extra=extra,
  )


def _names(value: str | list[str]) -> tuple[str, ...]:
  if isinstance(value, str):
    value = value.split(",")
  return tuple(name.strip() for name in value if name.strip())
