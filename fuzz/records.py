"""Files of records as JSON, and of completions that somebody has stored."""

from __future__ import annotations

import json
from collections.abc import Callable

from dss_jax.datasets import records
from dss_jax.datasets.records import json_lines
from dss_jax.rationales import stored_completions
from fuzz.targets import Target, scratch

_ENTRIES = (
  {
    "id": "a1",
    "input": "Is a poodle an animal?",
    "label": "yes",
    "rationales": [
      {"text": "A poodle is a dog.", "label": "yes", "source": "palm"}
    ],
    "meta": {"choices": ["yes", "no"]},
    "other": [1, 2.5, None, {"deep": True}],
  },
  {"Input": "é\u2028", "rationale": "why", "rationale_weight": 0.5},
)
_WORDS = (
  "input",
  "label",
  "rationales",
  "rationale_weight",
  "original_id",
  "\\ud800",
  "1e999",
  "NaN",
  "[[[[[[[[",
  '{"a":',
)


def read_whole(suffix: str) -> Callable[[bytes], None]:
  """A parser of a file of records; what it takes must survive being written."""

  def parse(data: bytes) -> None:
    path = scratch(f"file{suffix}")
    path.write_bytes(data)
    found, _ = records.read_records(path)
    again = scratch("again.jsonl")
    again.write_bytes(b"".join(json_lines.dumps(x) + b"\n" for x in found))
    same, problems = records.read_records(again)
    assert same == found, "records change when they are written and read"
    assert not problems, problems[0]

  return parse


def _lines() -> list[bytes]:
  lines = [json.dumps(entry).encode() for entry in _ENTRIES]
  return [b"\n".join(lines), b"\xef\xbb\xbf" + b"\r\n".join(lines)]


def _values() -> list[bytes]:
  return [
    json.dumps(list(_ENTRIES), indent=1).encode(),
    json.dumps({"version": 1, "data": list(_ENTRIES)}).encode("utf-16"),
  ]


def _stored(data: bytes) -> None:
  path = scratch("completions.json")
  path.write_bytes(data)
  stored_completions.read(path)


def _stored_seeds() -> list[bytes]:
  return [
    b'["It is so. So the answer is red.", "No."]',
    b'[{"id": 1, "completion": "So the answer is red.", "finish_reason":'
    b' "stop", "model": "m", "reasoning": "thoughts"}, {"ID": 2, "TEXT": ""}]',
  ]


TARGETS = {
  "jsonl": Target(read_whole(".jsonl"), _lines, _WORDS),
  "json": Target(read_whole(".json"), _values, _WORDS),
  "completions": Target(
    _stored,
    _stored_seeds,
    ("completion", "output", "response", "text", "reasoning_content"),
  ),
}
