"""The ledger: what is written stays, once, whoever is killed."""

import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
from typing import Any

import pytest

from dss_jax.base.errors import UserError
from dss_jax.rationales import ledger as ledgers
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import (
  NO_TOKENS,
  Charge,
  Completion,
  ModelUsage,
  Outcome,
  Tokens,
)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "ledger.sqlite"


def outcome_of(ledger, key) -> Any:
  """The outcome of a key, or None."""
  return ledger.outcome(key)


def answered(key, text="a", attempt=None, model="m", tokens=(3, 2)):
  completion = Completion(text, "stop", "m-001", *tokens)
  return Outcome(key, "answered", "t", model, completion, attempt=attempt)


def failed(key, kind="rejected", attempt=None):
  return Outcome(key, kind, "t", "m", reason="why", attempt=attempt)


def test_what_is_written_is_read_back(path):
  completion = Completion(
    *("tëxt\n\x00 end", "length", "m-001", 11, 22),
    refusal="no",
    reasoning="hm…\n",
    cached_tokens=5,
  )
  outcome = Outcome(
    "k", "answered", "t", "m", completion, "", 1.25, 1_700_000_000.5, 1
  )
  with Ledger(path) as ledger:
    ledger.add_outcome(outcome)
    assert ledger.outcome("k") == outcome
  with Ledger(path) as ledger:
    assert ledger.outcome("k") == outcome
    assert list(ledger.outcomes()) == [outcome]
    assert ledger.outcome("other") is None


def test_absent_counts_stay_absent(path):
  with Ledger(path) as ledger:
    ledger.add_outcome(answered("k", tokens=(None, None)))
    completion = outcome_of(ledger, "k").completion
    assert completion.prompt_tokens is None
    assert completion.completion_tokens is None
    assert completion.refusal is None
    assert ledger.usage() == {"m": ModelUsage(1, 0, 0, 1)}


def test_the_first_answer_stays(path):
  with Ledger(path) as ledger:
    ledger.add_outcome(answered("k", "first"))
    ledger.add_outcome(answered("k", "second"))
    ledger.add_outcome(failed("k"))
    assert outcome_of(ledger, "k").completion.text == "first"
    ledger.flush()
    ledger.add_outcome(answered("k", "third"))
    assert outcome_of(ledger, "k").completion.text == "first"


def test_a_failure_gives_way(path):
  with Ledger(path) as ledger:
    ledger.add_outcome(failed("k", "gave_up"))
    ledger.flush()
    ledger.add_outcome(answered("k", "late"))
    outcome = outcome_of(ledger, "k")
    assert (outcome.kind, outcome.reason) == ("answered", "")
    assert outcome.completion.text == "late"
    assert [o.kind for o in ledger.outcomes()] == ["answered"]


def test_an_outcome_is_an_answer_or_says_why_not(path):
  with Ledger(path) as ledger, pytest.raises(ValueError, match="completion"):
    ledger.add_outcome(Outcome("k", "answered", "t", "m"))


def test_half_a_surrogate_pair_is_replaced(path):
  with Ledger(path) as ledger:
    ledger.add_outcome(answered("k", "x\ud800y"))
    assert outcome_of(ledger, "k").completion.text == "x?y"


def test_many_keys_and_pages(path):
  with Ledger(path) as ledger:
    for i in range(2500):
      ledger.add_outcome(answered(f"k{i}", str(i)))
    found: Any = ledger.get_many(f"k{i}" for i in range(1000, 3000))
    assert len(found) == 1500
    assert found["k1234"].completion.text == "1234"
    outcomes: list[Any] = list(ledger.outcomes())
    texts = [outcome.completion.text for outcome in outcomes]
    assert texts == [str(i) for i in range(2500)]


def test_outcomes_can_be_added_while_they_are_read(path):
  with Ledger(path) as ledger:
    for i in range(1500):
      ledger.add_outcome(answered(f"k{i}"))
    keys = []
    for outcome in ledger.outcomes():
      if not keys:
        ledger.add_outcome(answered("more"))
      keys.append(outcome.key)
    assert keys == [f"k{i}" for i in range(1500)]
    assert [outcome.key for outcome in ledger.outcomes()][-1] == "more"


def test_attempts_count_on_and_have_unique_ids(path):
  ids = []
  for _ in range(2):
    with Ledger(path) as ledger:
      for key in ("a", "b"):
        attempt = ledger.start_attempt(key, "t")
        ids.append(attempt.id)
        ledger.end_attempt(attempt, "timeout", "no answer")
  assert len(set(ids)) == 4
  with Ledger(path) as ledger:
    attempts = list(ledger.attempts())
  assert [a.id for a in attempts] == ids
  assert [a.number for a in attempts] == [1, 2, 3, 4]
  assert {(a.result, a.message) for a in attempts} == {("timeout", "no answer")}
  assert all(a.ended and a.started <= a.ended for a in attempts)


def test_open_attempts_become_interrupted(path):
  with Ledger(path) as ledger:
    ledger.start_attempt("a", "t")
    assert [a.result for a in ledger.attempts()] == [None]
  with Ledger(path) as ledger:
    assert [a.result for a in ledger.attempts()] == ["interrupted"]
    assert next(iter(ledger.attempts())).ended is None


def test_settled(path):
  with Ledger(path) as ledger:
    ledger.add_outcome(answered("answered"))
    ledger.add_outcome(failed("rejected", attempt=1))
    ledger.add_outcome(failed("batch"))
    ledger.start_attempt("rejected", "t")
  keys = ["answered", "rejected", "batch", "new", "now"]
  with Ledger(path) as ledger:
    ledger.add_outcome(failed("now", attempt=ledger.next_attempt))
    assert set(ledger.settled(keys)) == {"answered", "rejected", "batch", "now"}
    assert set(ledger.settled(keys, retry_failed=True)) == {"answered", "now"}


def test_attempts_are_charged_until_they_are_known_better(path):
  estimate = Tokens(10, 100)
  with Ledger(path) as ledger:
    for i, known in enumerate((None, NO_TOKENS, Tokens(12, 3, cached=4))):
      attempt = ledger.start_attempt(f"k{i}", "t", "m", estimate)
      ledger.end_attempt(attempt, "x", tokens=known)
    ledger.start_attempt("killed", "t", "m", estimate)
    attempt = ledger.start_attempt("b", "batch", "m", Tokens(7, 70))
    ledger.end_attempt(attempt, "submitted")
    assert [a.key for a in ledger.submitted()] == ["b"]
  with Ledger(path) as ledger:
    assert ledger.charges() == [
      Charge("m", False, Tokens(32, 203, cached=4)),
      Charge("m", True, Tokens(7, 70)),
    ]
    [out] = ledger.submitted()
    ledger.end_attempt(out, "answered", tokens=Tokens(7, 5))
    assert ledger.charges()[1].tokens == Tokens(7, 5)
    assert not list(ledger.submitted())


def test_limits_are_remembered(path):
  with Ledger(path) as ledger:
    assert ledger.limits() == []
    for limit in (512, 64, 512):
      ledger.add_limit(limit)
  with Ledger(path, read_only=True) as ledger:
    assert ledger.limits() == [64, 512]


# As version 1 made them.
_VERSION_1 = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE attempts (id INTEGER PRIMARY KEY, key TEXT NOT NULL,
  teacher TEXT NOT NULL, started REAL NOT NULL, ended REAL, result TEXT,
  message TEXT);
CREATE TABLE outcomes (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL, attempt INTEGER, teacher TEXT NOT NULL,
  model TEXT NOT NULL, seconds REAL, unix REAL NOT NULL, reason TEXT, text TEXT,
  finish_reason TEXT, reported_model TEXT, prompt_tokens INTEGER,
  completion_tokens INTEGER, refusal TEXT);
INSERT INTO about VALUES ('id', 'cafe');
INSERT INTO attempts VALUES (1, 'a', 't', 1.0, 2.0, 'timeout', 'x'),
  (2, 'a', 't', 2.0, 3.0, 'answered', NULL),
  (3, 'b', 't', 3.0, NULL, NULL, NULL), (4, 'd', 't', 3.0, 4.0, 'answered', '');
INSERT INTO outcomes VALUES
  (1, 'a', 'answered', 2, 't', 'm', 1.0, 3.0, NULL, 'é', 'stop', 'm-1', 30, 5,
   NULL),
  (2, 'c', 'answered', NULL, 'batch', 'm', NULL, 9.0, NULL, 'y', 'stop', 'm-1',
   300, 50, NULL),
  (3, 'd', 'answered', 4, 't', 'm', 1.0, 3.0, NULL, 'ééé', '', '', NULL, NULL,
   NULL),
  (4, 'e', 'rejected', 2, 't', 'm', NULL, 9.0, 'why', NULL, NULL, NULL, NULL,
   NULL, NULL);
PRAGMA application_id = 1146311500;
PRAGMA user_version = 1;
"""


@pytest.mark.parametrize("read_only", [False, True])
def test_a_ledger_of_version_1_is_read_on(path, read_only):
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.executescript(_VERSION_1)
  with Ledger(path, read_only=read_only) as ledger:
    assert outcome_of(ledger, "a").completion == Completion(
      "é", "stop", "m-1", 30, 5
    )
    assert outcome_of(ledger, "e").reason == "why"
    # 'ééé' was not counted; six bytes are two tokens.
    assert ledger.charges() == [
      Charge("", False, NO_TOKENS),
      Charge("m", False, Tokens(30, 5 + 2)),
      Charge("m", True, Tokens(300, 50)),
    ]
    results = [a.result for a in ledger.attempts()]
    assert results == [
      *("timeout", "answered", "interrupted", "answered", "answered")
    ]
  with Ledger(path) as ledger:
    assert ledger.next_attempt == 6
    ledger.add_outcome(answered("new"))


def test_usage(path):
  with Ledger(path) as ledger:
    ledger.add_outcome(answered("a", tokens=(10, 1)))
    ledger.add_outcome(answered("b", tokens=(20, 2)))
    ledger.add_outcome(answered("c", model="other", tokens=(5, None)))
    ledger.add_outcome(failed("d", "gave_up"))
    usage = ledger.usage()
    kinds = [outcome.kind for outcome in ledger.outcomes()]
  assert kinds == ["answered"] * 3 + ["gave_up"]
  assert usage == {
    "m": ModelUsage(2, 30, 3, 0),
    "other": ModelUsage(1, 5, 0, 1),
  }


def test_what_is_flushed_survives_sigkill(path, repository):
  program = f"""
import os, signal
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Outcome
from dss_jax.rationales.teacher_requests import Completion
ledger = Ledger({str(path)!r})
attempt = ledger.start_attempt("a", "t")
ledger.end_attempt(attempt, "answered")
ledger.add_outcome(Outcome("a", "answered", "t", "m", Completion("kept")))
ledger.start_attempt("b", "t")
ledger.flush()
ledger.add_outcome(Outcome("b", "answered", "t", "m", Completion("lost")))
os.kill(os.getpid(), signal.SIGKILL)
"""
  killed = subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"PYTHONPATH": str(repository)},
  )
  assert killed.returncode == -signal.SIGKILL
  # Its lock died with it.
  with Ledger(path) as ledger:
    assert outcome_of(ledger, "a").completion.text == "kept"
    assert ledger.outcome("b") is None
    assert [a.result for a in ledger.attempts()] == ["answered", "interrupted"]


def test_one_process_writes(path, repository):
  program = f"""
from dss_jax.rationales.ledger import Ledger
try:
  Ledger({str(path)!r})
except ValueError as error:
  print(error)
"""
  with Ledger(path) as ledger:
    ledger.add_outcome(answered("k"))
    ledger.flush()
    printed = subprocess.run(
      [sys.executable, "-c", program],
      env=os.environ | {"PYTHONPATH": str(repository)},
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
    assert str(path) in printed
    assert f"process {os.getpid()}" in printed
    assert "\n" not in printed
    with pytest.raises(UserError, match="written by another run"):
      Ledger(path)
    # Reading is for everyone.
    with Ledger(path, read_only=True) as reader:
      assert outcome_of(reader, "k").kind == "answered"
  Ledger(path).close()


def test_reading_only_writes_nothing(path, tmp_path):
  with pytest.raises(UserError, match="there is no ledger"):
    Ledger(path, read_only=True)
  assert not path.exists()
  with Ledger(path) as ledger:
    ledger.start_attempt("a", "t")
  with Ledger(path, read_only=True) as reader:
    assert [a.result for a in reader.attempts()] == [None]
    reader.add_outcome(answered("k"))
    with pytest.raises(UserError, match=r"readonly|read-only"):
      reader.flush()
    reader._outcomes.clear()


@pytest.mark.parametrize("content", [b"not a database, but long " * 99, b"x"])
def test_another_file_is_refused_and_left_alone(path, content):
  path.write_bytes(content)
  with pytest.raises(UserError, match=str(path)) as caught:
    Ledger(path)
  assert "\n" not in str(caught.value)
  assert path.read_bytes() == content


def test_another_database_is_refused(path):
  with sqlite3.connect(path) as db:
    db.execute("CREATE TABLE t (x)")
  db.close()
  before = path.read_bytes()
  with pytest.raises(UserError, match="not a ledger, but another SQLite file"):
    Ledger(path)
  assert path.read_bytes() == before


def test_a_newer_schema_is_refused(path):
  Ledger(path).close()
  db = sqlite3.connect(path)
  db.execute("PRAGMA user_version = 99")
  db.close()
  with pytest.raises(UserError, match="schema version 99"):
    Ledger(path)


def test_a_damaged_ledger_is_reported_in_one_line(path):
  with Ledger(path) as ledger:
    for i in range(500):
      ledger.add_outcome(answered(f"k{i}", "x" * 100))
  damaged = bytearray(path.read_bytes())
  damaged[8192:-4096] = os.urandom(len(damaged) - 8192 - 4096)
  path.write_bytes(damaged)

  def read_all():
    with Ledger(path) as ledger:
      list(ledger.outcomes())
      ledger.get_many(f"k{i}" for i in range(500))
      ledger.usage()

  with pytest.raises(UserError, match="cannot use the ledger") as caught:
    read_all()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "change",
  [
    "ALTER TABLE outcomes RENAME TO o; CREATE VIEW outcomes AS WITH RECURSIVE"
    " c(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM c) SELECT id FROM c",
    "CREATE TRIGGER t AFTER UPDATE ON attempts BEGIN SELECT 1; END",
    "UPDATE attempts SET read_tokens = 'many'",
    "UPDATE attempts SET written_tokens = -1",
    "UPDATE outcomes SET text = NULL",
    "UPDATE outcomes SET text = x'00'",
    "DELETE FROM about WHERE name = 'id'",
    "INSERT OR REPLACE INTO about VALUES ('max_tokens', '1,x')",
    "UPDATE attempts SET id = 9223372036854775807",
    "ALTER TABLE outcomes DROP COLUMN text",
  ],
)
def test_what_no_ledger_holds_is_refused_in_one_line(path, change):
  with Ledger(path) as ledger:
    attempt = ledger.start_attempt("a", "t")
    ledger.end_attempt(attempt, "answered")
    ledger.add_outcome(answered("a", attempt=attempt.number))
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.executescript(change)

  def use():
    with Ledger(path) as ledger:
      ledger.start_attempt("b", "t")
      ledger.flush()
      ledger.outcome("a")

  with pytest.raises(UserError, match="ledger") as error:
    use()
  assert "\n" not in str(error.value)


def test_a_full_disk_is_reported_and_loses_nothing(path):
  with Ledger(path) as ledger:
    ledger.add_outcome(answered("first"))
    ledger.flush()
    ledger._db.execute("PRAGMA max_page_count = 12")
    for i in range(100):
      ledger.add_outcome(answered(f"k{i}", "x" * 1000))
    with pytest.raises(UserError, match="full"):
      ledger.flush()
    # Somebody makes room.
    ledger._db.execute("PRAGMA max_page_count = 100000")
    ledger.flush()
    assert len(list(ledger.outcomes())) == 101


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write the ledger"):
    Ledger(tmp_path / "file" / "ledger.sqlite")
  with pytest.raises(UserError, match=str(tmp_path)):
    Ledger(tmp_path)


def test_the_folder_is_made(tmp_path):
  Ledger(tmp_path / "new" / "folder" / "ledger.sqlite").close()
  assert (tmp_path / "new" / "folder" / "ledger.sqlite").is_file()


def test_files_without_tables_are_completed(path):
  """What a kill between making the file and its tables leaves."""
  path.write_bytes(b"")
  with Ledger(path) as ledger:
    assert list(ledger.outcomes()) == []
  assert pathlib.Path(path).stat().st_size > 0
  assert ledgers.ANSWERED == "answered"
