"""From the keys of somebody's file to the fields of the record.

A mapping names, per field, the key that holds it: `{"input": "question",
"label": "answer", "rationale": "explanation"}`. More forms cover what real
files need: a path into nested objects and lists, `{"label": "meta.label"}` or
`{"label": "answers.text.0"}`; a template with several keys, `{"input":
"{premise}</s>{hypothesis}"}`; a list of keys for files with one column per
rationale, `{"rationale": ["explanation_1", "explanation_2"]}`; and None, where
a key that is named like a field is none.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records.record import (
  RECORD_FIELDS,
  Rationale,
  Record,
  plain,
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
# Fields whose names need not be exact. A file without them is of no use, while
# an "ID" or "Meta" of somebody's may be anything.
_SIMILAR_FIELDS = ("input", "label", "rationale", "rationales")
_RATIONALES = ("rationale", "rationales")

# Keys and columns that an error names.
_SHOWN_KEYS = 20

# Only plain names between braces: str.format would let a template reach into
# objects ("{x.__class__}").
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass(frozen=True)
class FieldMapping:
  """Which keys of an entry become which field of the record.

  Attributes:
    keys: field -> key, path or template; or tuple of keys (`rationale` only);
      an empty tuple where no key holds the field.
  """

  keys: Mapping[str, str | tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )

  @classmethod
  def parse(
    cls,
    mapping: Mapping[str, str | Sequence[str] | None] | FieldMapping | None,
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
      elif key is None and field != "input":
        keys[field] = ()
      elif field == "rationale" and key and _is_list_of_text(key):
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

  @functools.cached_property
  def used_keys(self) -> frozenset[str]:
    """The keys that some field is made of."""
    return frozenset(
      key for field in MAPPABLE_FIELDS for key in self.source_keys(field)
    )

  def has_input(self, entry: Mapping[str, Any]) -> bool:
    """Whether an entry has what its input is made of."""
    return (
      any(_at(key, entry) is not None for key in self.source_keys("input"))
      or "input" in self.renamed(entry).values()
    )

  def has_column_of_input(self, names: Collection[str]) -> bool:
    """Whether a table with these columns has one that its input is made of."""
    return any(
      key in names or key.partition(".")[0] in names
      for key in self.source_keys("input")
    ) or any(
      similar_field(name) == "input" and "input" not in self.keys
      for name in names
    )

  def fields_in(self, entry: Mapping[str, Any]) -> set[str]:
    """The mapped fields that an entry has a key for, or that need none."""
    return {
      field
      for field, key in self.keys.items()
      if not key
      or any(
        name in entry or _at(name, entry) is not None
        for name in self.source_keys(field)
      )
    }

  def renamed(
    self, keys: Iterable[str], unfit: Collection[str] = ()
  ) -> dict[str, str]:
    """Keys that are a field's name but for case, space and plural -> the field.

    None of a field that the mapping names a key for, or that is there itself;
    `rationale` and `rationales` are one field in this.

    Args:
      keys: of an entry, or of all.
      unfit: those among them whose values cannot be a text.

    Raises:
      UserError: if two keys are a field's name in this way.
    """
    keys = list(keys)
    present = {field for field in _SIMILAR_FIELDS if field in keys}
    present |= self.keys.keys()
    found: dict[str, str] = {}
    for key in keys:
      field = similar_field(key)
      if field is None or key in self.used_keys:
        continue
      if key in unfit and field not in _RATIONALES:
        continue
      names = _RATIONALES if field in _RATIONALES else (field,)
      if not present.isdisjoint(names):
        continue
      if others := [repr(k) for k, f in found.items() if f in names]:
        raise UserError(
          f"{' and '.join([*others, repr(key)])} may both be the {field}: rename"
          f" one, or say which by field_mapping {field}=...",
          fields="field_mapping",
        )
      found[key] = field
    return found

  def check_columns(self, columns: Collection[str], where: str):
    """Raises UserError if a key of a mapped field, or the input, is no column.

    Args:
      columns: of a table, after `renamed`.
      where: names the table.
    """
    for field in {"input": "input", **self.keys}:
      for key in self.source_keys(field):
        if key not in columns and key.partition(".")[0] not in columns:
          mapped = f" (mapped to {field})" if field in self.keys else ""
          raise UserError(
            f"{where}: no column {key!r}{mapped}; columns:"
            f" {_listed(columns)}; say which holds what by field_mapping, such"
            f" as input={next(iter(columns), 'question')}",
            fields="field_mapping",
          )

  def value(self, field: str, entry: Mapping[str, Any]) -> Any:
    """The value of `field` in `entry`; None where the entry has no such key."""
    key = self.keys.get(field, field)
    if isinstance(key, tuple):
      values = [_at(name, entry) for name in key]
      return [value for value in values if value not in (None, "")] or None
    if key in entry or not _PLACEHOLDER.search(key):
      return _at(key, entry)

    def text(match: re.Match[str]) -> str:
      name = match.group(1)
      found = text_or_none(f"{field}: key {name!r}", _at(name, entry))
      if found is None:
        raise UserError(f"{field}: key {name!r} is missing or null")
      return found

    return _PLACEHOLDER.sub(text, key)

  def record(self, entry: Mapping[str, Any], default_id: str) -> Record:
    """One entry as a record.

    Args:
      entry: JSON-like values by key.
      default_id: the id of an entry that has none.

    Raises:
      UserError: with the reason why the entry is no record.
    """
    fields = {field: self.value(field, entry) for field in MAPPABLE_FIELDS}
    for field, value in fields.items():
      # Only a number can be NaN; a text that is, is missing.
      if value != value and field != "rationale_weight":
        fields[field] = None
    if fields["input"] is None:
      wanted = " and ".join(map(repr, self.source_keys("input")))
      raise UserError(f"no input (key {wanted}); keys: {_listed(entry)}")
    record_id = text_or_none("id", fields["id"])
    meta = _from_json("meta", fields["meta"])
    return Record(
      id=default_id if record_id is None else record_id,
      input=fields["input"],
      label=text_or_none("label", fields["label"]),
      rationales=_rationales(fields),
      meta={} if meta is None else plain(meta),
      extra=_extra(entry, self.used_keys),
    )


@functools.lru_cache(maxsize=4096)
def similar_field(key: str) -> str | None:
  """The field that a key is but for case, space and plural; None if none."""
  name = re.sub(r"[\s_-]+", "_", key.strip().casefold())
  for candidate in (name, name.removesuffix("s")):
    if candidate in _SIMILAR_FIELDS:
      return candidate if candidate != key else None
  return None


def with_field_names(
  entry: Mapping[str, Any], mapping: FieldMapping, where: str
) -> Mapping[str, Any]:
  """The entry under the names that `FieldMapping.renamed` gives its keys.

  Raises:
    UserError: if two keys are a field's name but for case, space and plural.
  """
  if not any(map(similar_field, entry)):
    return entry
  unfit = [
    key for key, value in entry.items() if isinstance(value, list | dict)
  ]
  names = mapping.renamed(entry, unfit)
  for key, field in names.items():
    note_renamed(where, key, field)
  return {names.get(key, key): value for key, value in entry.items()}


@functools.lru_cache(maxsize=1024)
def note_renamed(where: str, key: str, field: str) -> None:
  """Says once that a key of a file is taken for a field."""
  logging.getLogger(__name__).warning(
    "%s: %r is read as the field %s (if it is not: field_mapping %s=...)",
    where,
    key,
    field,
    field,
  )


def _at(key: str, entry: Mapping[str, Any]) -> Any:
  """What an entry holds under a key, or at the end of a path of keys."""
  if key in entry or "." not in key:
    return entry.get(key)
  value: Any = entry
  for part in key.split("."):
    if isinstance(value, Mapping):
      value = value.get(part)
    elif isinstance(value, list) and part.isdecimal() and len(part) < 7:
      value = value[int(part)] if int(part) < len(value) else None
    else:
      return None
  return value


def _listed(names: Iterable[str]) -> str:
  """Names as a message shows them: `a, b and 3 more`."""
  names = [name if name.isprintable() and name.strip() == name else repr(name)
           for name in names]  # fmt: skip
  shown = ", ".join(name[:64] for name in names[:_SHOWN_KEYS])
  rest = len(names) - _SHOWN_KEYS
  return f"{shown} and {rest} more" if rest > 0 else shown or "none"


def _is_list_of_text(value: Any) -> bool:
  return isinstance(value, Sequence) and all(
    isinstance(item, str) and item for item in value
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
    try:
      extra[name] = plain(value)
    except UserError as error:
      raise UserError(f"key {key!r}: {error}") from None
  return extra


def _rationales(fields: Mapping[str, Any]) -> tuple[Rationale, ...]:
  """The `rationales` list, or the flat `rationale` columns, of an entry."""
  listed = fields["rationales"]
  if isinstance(listed, str) and not re.match(r"\s*(?:[\[{]|null\b)", listed):
    listed = [listed] if listed.strip() else None  # one, in plain words
  listed = _from_json("rationales", listed)
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
