"""The names under which the columns of a table are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dss_jax.base.errors import UserError
from dss_jax.datasets.records.field_mapping import (
  FieldMapping,
  note_renamed,
  similar_field,
)


def column_names(
  header: Sequence[str],
  mapping: FieldMapping,
  where: str,
  unfit: Collection[int] = (),
) -> list[str]:
  """A name for each column, of which no two are equal.

  Spaces around the names of fields are taken off. A column without a name is called
  "Unnamed: " and its position, and the second column of a name "NAME.1", as
  pandas does. A name that is a field's but for case, space and plural becomes
  the field's.

  Args:
    header: the names as they are written.
    mapping: which columns fields are made of.
    where: names the table in errors.
    unfit: the positions of columns whose values cannot be texts.

  Raises:
    UserError: for a column that is needed and is not there, or there twice,
      or a name that cannot be used.
  """
  wanted = {key.partition(".")[0] for key in mapping.used_keys}
  wanted |= mapping.used_keys
  names: dict[str, int] = {}  # in order, and how many have the same name
  for position, written in enumerate(header):
    bare = written.strip()
    is_looked_up = bare in wanted or similar_field(bare) is not None
    name = bare if is_looked_up and written not in wanted else written
    if "\0" in name:
      raise UserError(f"{where}: the header has an unreadable name")
    if name in names and name in mapping.used_keys:
      raise UserError(f"{where}: column {name!r} appears twice in the header")
    name = name if bare else f"Unnamed: {position}"
    unique = name
    while unique in names:
      names[name] += 1
      unique = f"{name}.{names[name]}"
    names[unique] = 0
  columns = list(names)
  try:
    fields = mapping.renamed(columns, [columns[n] for n in unfit])
  except UserError as error:
    raise UserError(f"{where}: {error}", fields=error.fields) from None
  for name, field in fields.items():
    note_renamed(where, name, field)
  columns = [fields.get(name, name) for name in columns]
  mapping.check_columns(columns, where)
  return columns
