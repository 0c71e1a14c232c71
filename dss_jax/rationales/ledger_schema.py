"""The tables of a ledger, and what becomes of the files of older versions."""

from __future__ import annotations

import re
import secrets
import sqlite3

# "DSSL" in ASCII; tells our files from other SQLite files.
APPLICATION_ID = 0x4453534C
# Version 2 has what an attempt is paid for, and what a model thought.
VERSION = 2

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL,
  teacher TEXT NOT NULL,
  started REAL NOT NULL,
  ended REAL,
  result TEXT,
  message TEXT,
  model TEXT,
  read_tokens INTEGER,
  written_tokens INTEGER,
  cached_tokens INTEGER
);
CREATE TABLE outcomes (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  attempt INTEGER,
  teacher TEXT NOT NULL,
  model TEXT NOT NULL,
  seconds REAL,
  unix REAL NOT NULL,
  reason TEXT,
  text TEXT,
  finish_reason TEXT,
  reported_model TEXT,
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  refusal TEXT,
  reasoning TEXT,
  cached_tokens INTEGER
);
"""

# Version 1 knew the tokens of answers alone. Where a provider did not count
# them, four bytes are taken for a token.
_FROM_VERSION_1 = """
ALTER TABLE attempts ADD COLUMN model TEXT;
ALTER TABLE attempts ADD COLUMN read_tokens INTEGER;
ALTER TABLE attempts ADD COLUMN written_tokens INTEGER;
ALTER TABLE attempts ADD COLUMN cached_tokens INTEGER;
ALTER TABLE outcomes ADD COLUMN reasoning TEXT;
ALTER TABLE outcomes ADD COLUMN cached_tokens INTEGER;
INSERT INTO attempts (key, teacher, started, ended, result)
  SELECT key, teacher, unix, unix, kind FROM outcomes
  WHERE attempt IS NULL AND kind = 'answered';
CREATE TEMP TABLE answers AS
  SELECT key, model, prompt_tokens AS read,
    COALESCE(completion_tokens, (LENGTH(CAST(text AS BLOB)) + 3) / 4) AS written
  FROM outcomes WHERE kind = 'answered';
CREATE UNIQUE INDEX temp.answer ON answers (key);
UPDATE attempts SET
  model = (SELECT model FROM answers WHERE answers.key = attempts.key),
  read_tokens = (SELECT read FROM answers WHERE answers.key = attempts.key),
  written_tokens =
    (SELECT written FROM answers WHERE answers.key = attempts.key)
  WHERE result = 'answered';
DROP TABLE answers;
"""


def _damaged_rows(statement: str) -> tuple[str, str]:
  """A table, and what is true of a damaged row: columns take any type."""
  table, *columns = re.findall(
    r"(\w+) (TEXT|INTEGER|REAL|\()( PRIMARY KEY| NOT NULL)?", statement
  )
  conditions = []
  for name, kind, required in columns:
    other = f"typeof({name}) != '{kind.lower()}'"
    conditions.append(other if required else f"{other} AND {name} NOT NULL")
    if kind == "INTEGER":
      conditions.append(f"{name} < 0")
  return table[0], " OR ".join(conditions)


_DAMAGED = dict(map(_damaged_rows, _SCHEMA.split(";")[:-1]))
_DAMAGED["outcomes"] += " OR kind = 'answered' AND text IS NULL"


def check_values(db: sqlite3.Connection) -> None:
  """Raises ValueError where a row holds what no ledger writes.

  Looks at types alone, which lie before the texts of a row.
  """
  for table, damaged in _DAMAGED.items():
    [count] = db.execute(
      f"SELECT COUNT(*) FROM {table} WHERE {damaged}"
    ).fetchone()
    if count:
      raise ValueError(f"{count} rows of its table {table} are damaged")


def create(db: sqlite3.Connection) -> None:
  """Makes the tables; a kill in between leaves an empty file."""
  _run(
    db,
    f"{_SCHEMA}"
    f"INSERT INTO about VALUES ('id', '{secrets.token_hex(6)}');"
    f"PRAGMA application_id = {APPLICATION_ID};",
  )


def upgrade(db: sqlite3.Connection) -> None:
  """Brings the tables of version 1 to this one, all or nothing."""
  _run(db, _FROM_VERSION_1)


def _run(db: sqlite3.Connection, statements: str) -> None:
  try:
    db.executescript(
      f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {VERSION}; COMMIT;"
    )
  except BaseException:
    if db.in_transaction:
      db.execute("ROLLBACK")
    raise
