"""The record: one input, its gold label, and what teachers wrote about it.

Every dataset, file and teacher ends in this one schema, and everything after
it (sub-tasks, token arrays, training) starts from it. A record checks itself
when it is made, so whatever holds a `Record` may rely on its fields.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import math
from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import UserError

# Bounds on untrusted input, in characters and items. The longest input of the
# released datasets has under a thousand characters; these leave room for whole
# documents and still stop a file that is not what it says it is.
MAX_FIELD_CHARS = 1 << 20
MAX_ID_CHARS = 1024
MAX_RATIONALES = 1024
# Python refuses to spell out integers beyond 4,300 digits.
MAX_ID_DIGITS = 1000
# From here on a float is not sure to be the whole number that was meant.
_MAX_WHOLE_FLOAT = 2.0**53

# Weights ride as float32 from the batch onwards and must stay finite there.
MAX_WEIGHT = 3.0e38

RECORD_FIELDS = ("id", "input", "label", "rationales", "meta")
RATIONALE_FIELDS = ("text", "label", "source", "weight", "status")


def _check_text(name: str, value: Any, max_chars: int = MAX_FIELD_CHARS):
  """Raises UserError unless `value` is text that can be stored and tokenised."""
  if not isinstance(value, str):
    raise UserError(f"{name} must be text, got {type(value).__name__}")
  if len(value) > max_chars:
    raise UserError(
      f"{name} has {len(value)} characters, at most {max_chars} are allowed"
    )
  if "\0" in value:
    raise UserError(f"{name} contains a NUL character")
  if not value.isascii():
    try:
      value.encode("utf-8")
    except UnicodeEncodeError as error:
      raise UserError(
        f"{name} is not valid UTF-8 (character {error.start})"
      ) from None


def _check_mapping(name: str, value: Any):
  if not isinstance(value, Mapping):
    raise UserError(f"{name} must be a mapping, got {type(value).__name__}")
  for key in value:
    _check_text(f"a key of {name}", key, MAX_ID_CHARS)


@dataclasses.dataclass(frozen=True)
class Rationale:
  """What one teacher wrote about one record.

  Attributes:
    text: the rationale, without the answer that followed it.
    label: the teacher's own answer; None where there is none to be read.
    source: who wrote it ("palm", "human", a model's name, ...).
    weight: the example weight of this rationale, finite and at least 0.
    status: "ok", or the reason why the completion could not be used as it is
      (see `dss_jax.datasets.completions` for the reasons of the released data).
    extra: keys of the source that are none of the above, kept for round trips.
  """

  text: str
  label: str | None = None
  source: str = ""
  weight: float = 1.0
  status: str = "ok"
  extra: Mapping[str, Any] = dataclasses.field(
    default_factory=dict, hash=False, repr=False
  )

  def __post_init__(self):
    _check_text("rationale text", self.text)
    if self.label is not None:
      _check_text("rationale label", self.label)
    _check_text("rationale source", self.source, MAX_ID_CHARS)
    _check_text("rationale status", self.status, MAX_ID_CHARS)
    weight = self.weight
    if isinstance(weight, bool) or not isinstance(weight, int | float):
      raise UserError(
        f"rationale weight must be a number, got {type(weight).__name__}"
      )
    # Compared before the conversion: an integer of a thousand digits has no
    # float, and NaN fails every comparison.
    if not 0 <= weight <= MAX_WEIGHT:
      shown = f"{weight:g}" if abs(weight) < 1e300 else "too large a number"
      raise UserError(
        "rationale weight must be finite and at least 0, got"
        f" {'nan' if weight != weight else shown}"
      )
    object.__setattr__(self, "weight", float(weight))
    _check_mapping("rationale extra", self.extra)

  def to_dict(self) -> dict[str, Any]:
    """The rationale as plain JSON values, fields first."""
    fields = {name: getattr(self, name) for name in RATIONALE_FIELDS}
    return {**fields, **self.extra}


@dataclasses.dataclass(frozen=True)
class Record:
  """One example: an input, its gold label, and any number of rationales.

  Attributes:
    id: unique within its dataset; splits and fractions are keyed by it.
    input: the text the student reads, before any prefix.
    label: the gold answer, or None where nobody has given one.
    rationales: what the teachers wrote, one entry per teacher and sample.
    meta: facts about the record that training does not use.
    extra: keys of the source file that the schema does not know; written back
      as they came.
  """

  id: str
  input: str
  label: str | None = None
  rationales: tuple[Rationale, ...] = ()
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
  extra: Mapping[str, Any] = dataclasses.field(
    default_factory=dict, hash=False, repr=False
  )

  def __post_init__(self):
    _check_text("id", self.id, MAX_ID_CHARS)
    if not self.id:
      raise UserError("id is empty")
    _check_text("input", self.input)
    if not self.input.strip():
      raise UserError("input is empty")
    if self.label is not None:
      _check_text("label", self.label)
    object.__setattr__(self, "rationales", tuple(self.rationales))
    if len(self.rationales) > MAX_RATIONALES:
      raise UserError(
        f"{len(self.rationales)} rationales, at most {MAX_RATIONALES} are"
        " allowed"
      )
    for rationale in self.rationales:
      if not isinstance(rationale, Rationale):
        raise UserError(
          "rationales must hold Rationale objects, got"
          f" {type(rationale).__name__}"
        )
    _check_mapping("meta", self.meta)
    _check_mapping("extra", self.extra)
    clash = sorted(set(self.extra) & set(RECORD_FIELDS))
    if clash:
      raise UserError(f"extra holds {clash[0]!r}, which is a record field")

  def to_dict(self) -> dict[str, Any]:
    """The record as plain JSON values: fields first, then unknown keys."""
    fields: dict[str, Any] = {
      "id": self.id,
      "input": self.input,
      "label": self.label,
      "rationales": [rationale.to_dict() for rationale in self.rationales],
    }
    if self.meta:
      fields["meta"] = dict(self.meta)
    return {**fields, **self.extra}


def text_or_none(name: str, value: Any) -> str | None:
  """A label or id as text; null, and NaN for a missing number, are None.

  Whole numbers are spelled out, also those that a table holds as floats (2.0
  is "2"), and truth values are "true" and "false", as in JSON.

  Args:
    name: the field, for the message.
    value: what the file held.

  Raises:
    UserError: for anything else; a fraction has several spellings, and the
      file should say which one is meant.
  """
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, float):
    if math.isnan(value):
      return None
    if value.is_integer() and abs(value) < _MAX_WHOLE_FLOAT:
      value = int(value)
  if isinstance(value, int):
    if abs(value) >= 10**MAX_ID_DIGITS:
      raise UserError(f"{name} has more than {MAX_ID_DIGITS} digits")
    return str(value)
  shown = f" {value!r}: write it as text" if isinstance(value, float) else ""
  raise UserError(
    f"{name} must be text, a whole number, a truth value or null, got"
    f" {type(value).__name__}{shown}"
  )


def rationale_from_dict(value: Any) -> Rationale:
  """One entry of `rationales`: a mapping with `text`, or the text itself."""
  if isinstance(value, str):
    return Rationale(value)
  if not isinstance(value, Mapping):
    raise UserError(
      f"a rationale must be a mapping or text, got {type(value).__name__}"
    )
  if "text" not in value:
    raise UserError("a rationale has no 'text'")
  known = {name: value[name] for name in RATIONALE_FIELDS if name in value}
  known["label"] = text_or_none("rationale label", known.get("label"))
  # Written as null by tools that have no defaults.
  for name, default in (("source", ""), ("weight", 1.0), ("status", "ok")):
    if known.get(name) is None:
      known[name] = default
  extra = {k: plain(v) for k, v in value.items() if k not in RATIONALE_FIELDS}
  return Rationale(**known, extra=extra)


def plain(value: Any) -> Any:
  """A value that training does not use, as JSON has it.

  Times and decimals become text. NaN, as pandas writes a missing number, and
  infinity, which JSON lacks, become null.

  Raises:
    UserError: for values that JSON cannot hold.
  """
  if value is None or isinstance(value, str | bool | int):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, datetime.date | datetime.time):
    return value.isoformat()
  if isinstance(value, datetime.timedelta | decimal.Decimal):
    return str(value)
  raise UserError(f"values of type {type(value).__name__} cannot be kept")
