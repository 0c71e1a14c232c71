"""From the keys of somebody's file to the fields of the record.

A mapping names, per field, the key that holds it: `{"input": "question",
"label": "answer", "rationale": "explanation"}`. Two more forms cover what real
files need: a template with several keys, `{"input": "{premise}</s>{hypothesis}"}`,
and a list of keys for files with one column per rationale,
`{"rationale": ["explanation_1", "explanation_2"]}`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records.record import (
  RECORD_FIELDS,
  Rationale,
  Record,
  rationale_from_dict,
  text_or_none,
)

# A file with one rationale per entry may spread it over flat columns.
FLAT_FIELDS = (
  "rationale",
  "rationale_label",
  "rationale_source",
  "rationale_weight",
  "rationale_status",
)
MAPPABLE_FIELDS = (*RECORD_FIELDS, *FLAT_FIELDS)

# Only plain names between braces: str.format would let a template reach into
# objects ("{x.__class__}").
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass(frozen=True)
class FieldMapping:
  """Which keys of an entry become which field of the record.

  Attributes:
    keys: field -> key, template, or tuple of keys (`rationale` only).
  """

  keys: Mapping[str, str | tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )

  @classmethod
  def parse(
    cls, mapping: Mapping[str, str | Sequence[str]] | FieldMapping | None
  ) -> FieldMapping:
    """Checks a user's mapping.

    Raises:
      UserError: for an unknown field, or a value of the wrong kind.
    """
    if isinstance(mapping, FieldMapping):
      return mapping
    keys: dict[str, str | tuple[str, ...]] = {}
    for field, key in (mapping or {}).items():
      if field not in MAPPABLE_FIELDS:
        raise UserError(
          f"field mapping: {field!r} is no field of a record; fields:"
          f" {', '.join(MAPPABLE_FIELDS)}",
          fields="field_mapping",
        )
      if isinstance(key, str) and key:
        keys[field] = key
      elif field == "rationale" and _is_list_of_text(key):
        keys[field] = tuple(key)
      else:
        raise UserError(
          f"field mapping: {field} must name a key of the file, got {key!r}",
          fields="field_mapping",
        )
    return cls(keys)

  def source_keys(self, field: str) -> tuple[str, ...]:
    """The keys of an entry that `field` is made of."""
    key = self.keys.get(field, field)
    if isinstance(key, tuple):
      return key
    return tuple(_PLACEHOLDER.findall(key)) or (key,)

  def check_columns(self, columns: Collection[str], where: str):
    """Raises UserError if a mapped key is none of a table's columns."""
    for field in self.keys:
      for key in self.source_keys(field):
        if key not in columns:
          raise UserError(
            f"{where}: no column {key!r} (mapped to {field}); columns:"
            f" {', '.join(columns)}",
            fields="field_mapping",
          )

  def value(self, field: str, entry: Mapping[str, Any]) -> Any:
    """The value of `field` in `entry`; None where the entry has no such key."""
    key = self.keys.get(field, field)
    if isinstance(key, tuple):
      return [entry[name] for name in key if entry.get(name) not in (None, "")]
    names = _PLACEHOLDER.findall(key)
    if not names:
      return entry.get(key)
    missing = [name for name in names if not isinstance(entry.get(name), str)]
    if missing:
      raise UserError(f"{field}: key {missing[0]!r} is missing or not text")
    return _PLACEHOLDER.sub(lambda match: entry[match.group(1)], key)

  def record(self, entry: Mapping[str, Any], default_id: str) -> Record:
    """One entry as a record.

    Args:
      entry: JSON-like values by key.
      default_id: the id of an entry that has none.

    Raises:
      UserError: with the reason why the entry is no record.
    """
    used = {key for field in MAPPABLE_FIELDS for key in self.source_keys(field)}
    fields = {field: self.value(field, entry) for field in MAPPABLE_FIELDS}
    if fields["input"] is None:
      wanted = " and ".join(map(repr, self.source_keys("input")))
      raise UserError(f"no input (key {wanted})")
    record_id = text_or_none("id", fields["id"])
    meta = _from_json("meta", fields["meta"])
    return Record(
      id=default_id if record_id is None else record_id,
      input=fields["input"],
      label=text_or_none("label", fields["label"]),
      rationales=_rationales(fields),
      meta={} if meta is None else meta,
      extra=_extra(entry, used),
    )


def _is_list_of_text(value: Any) -> bool:
  return (
    isinstance(value, Sequence)
    and bool(value)
    and all(isinstance(item, str) and item for item in value)
  )


def _extra(entry: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
  """The keys nobody asked for. One named like a field, while another key was
  mapped to that field, is kept under a name of its own."""
  extra = {}
  for key, value in entry.items():
    if key in used:
      continue
    name = f"original_{key}" if key in MAPPABLE_FIELDS else key
    if name in extra or (name != key and name in entry):
      raise UserError(f"keys {key!r} and {name!r} cannot both be kept")
    extra[name] = value
  return extra


def _rationales(fields: Mapping[str, Any]) -> tuple[Rationale, ...]:
  """The `rationales` list, or the flat `rationale` columns, of an entry."""
  listed = _from_json("rationales", fields["rationales"])
  flat = fields["rationale"]
  has_flat = any(fields[name] not in (None, "", []) for name in FLAT_FIELDS)
  if listed is not None:
    if has_flat:
      raise UserError("both 'rationales' and 'rationale' are given")
    if isinstance(listed, str) or not isinstance(listed, Sequence):
      raise UserError(f"rationales must be a list, got {type(listed).__name__}")
    return tuple(rationale_from_dict(item) for item in listed)
  if not has_flat:
    return ()
  weight = fields["rationale_weight"]
  texts = flat if isinstance(flat, list) else ["" if flat is None else flat]
  return tuple(
    rationale_from_dict(
      {
        "text": text,
        "label": fields["rationale_label"],
        "source": fields["rationale_source"],
        "weight": _number(weight) if isinstance(weight, str) else weight,
        "status": fields["rationale_status"],
      }
    )
    for text in texts
  )


def _from_json(field: str, value: Any) -> Any:
  """Tables hold lists and mappings as JSON text."""
  if not isinstance(value, str):
    return value
  try:
    return strict_json.loads(value)
  except UserError as error:
    raise UserError(f"{field}: {error}") from None


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise UserError(
      f"rationale weight must be a number, got {text[:32]!r}"
    ) from None
