"""The names under which the columns of a table are read."""

from __future__ import annotations

from collections.abc import Sequence

from dss_jax.base.errors import UserError
from dss_jax.datasets.records.field_mapping import FieldMapping, note_renamed


def column_names(
  header: Sequence[str], mapping: FieldMapping, where: str
) -> list[str]:
  """A name for each column, of which no two are equal.

  Spaces around names are taken off. A column without a name is called
  "Unnamed: " and its position, and the second column of a name "NAME.1", as
  pandas does. A name that is a field's but for case, space and plural becomes
  the field's.

  Args:
    header: the names as they are written.
    mapping: which columns fields are made of.
    where: names the table in errors.

  Raises:
    UserError: for a column that is needed and is not there, or there twice,
      or a name that cannot be used.
  """
  names: list[str] = []
  for position, written in enumerate(header):
    name = written if written in mapping.used_keys else written.strip()
    if "\0" in name:
      raise UserError(f"{where}: the header has an unreadable name")
    if name in names and name in mapping.used_keys:
      raise UserError(f"{where}: column {name!r} appears twice in the header")
    name = name or f"Unnamed: {position}"
    number, unique = 0, name
    while unique in names:
      number += 1
      unique = f"{name}.{number}"
    names.append(unique)
  try:
    fields = mapping.renamed(names)
  except UserError as error:
    raise UserError(f"{where}: {error}", fields=error.fields) from None
  for name, field in fields.items():
    note_renamed(where, name, field)
  names = [fields.get(name, name) for name in names]
  mapping.check_columns(names, where)
  return names
