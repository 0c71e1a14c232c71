"""Shards of a ledger: one writer, and segments that keep what was answered."""

import pathlib
import threading
import time
from typing import Any

import pytest

from dss_jax.base.errors import UserError
from dss_jax.rationales import ledger_shards
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.ledger_shards import SegmentedLedger, open_shard
from dss_jax.rationales.teacher_requests import (
  NO_TOKENS,
  Charge,
  Completion,
  Outcome,
  Tokens,
)


class LocalFiles:
  """Files that fail on demand."""

  def __init__(self):
    self.fails = False

  def beginning_with(self, prefix):
    folder, _, name = prefix.rpartition("/")
    found = pathlib.Path(folder).glob(f"{name}*")
    return [str(path) for path in found]

  def read(self, path):
    return pathlib.Path(path).read_bytes()

  def write(self, path, content):
    if self.fails:
      raise OSError("the bucket\nis gone")
    pathlib.Path(path).parent.mkdir(exist_ok=True)
    with open(path, "xb") as file:
      file.write(content)


def outcome(key, text="hello", **changes):
  fields: dict[str, Any] = {"kind": "answered", "teacher": "t", "model": "m"}
  fields["unix"] = 1.5
  fields["completion"] = Completion(text, model="m-1", prompt_tokens=3)
  return Outcome(key=key, **(fields | changes))


def opened(tmp_path, files, *, shard=1, every_s=60.0):
  return open_shard(
    str(tmp_path / "ledger"),
    shard,
    4,
    kind="segments",
    files=files,
    publish_every_s=every_s,
  )


def wait_for(condition):
  deadline = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.005)


def test_outcomes_go_to_segments_and_come_back(tmp_path):
  files = LocalFiles()
  gave_up = {"kind": "gave_up", "completion": None, "reason": "tired"}
  with opened(tmp_path, files) as ledger:
    ledger.add_outcome(outcome("a", seconds=0.25, attempt=7))
    ledger.add_outcome(outcome("b", **gave_up))
    ledger.add_outcome(outcome("ü", "half \ud83d\n of a pair"))
  with opened(tmp_path, files) as ledger:
    found = ledger.get_many(["a", "b", "ü", "c"])
    assert found["a"] == outcome("a", seconds=0.25)
    assert found["b"] == outcome("b", **gave_up)
    assert found["ü"].completion == Completion(
      "half ?\n of a pair", model="m-1", prompt_tokens=3
    )
    assert set(found) == {"a", "b", "ü"}
    assert ledger.settled("ab", retry_failed=True) == {"a": None}
    # A failure gives way to what comes later.
    ledger.add_outcome(outcome("b", "at last"))
  with opened(tmp_path, files) as ledger:
    answer = ledger.get_many(["b"])["b"].completion
    assert answer is not None
    assert answer.text == "at last"
  # What is known is not written again: one segment for each with news.
  names = sorted(p.name for p in (tmp_path / "ledger").iterdir())
  assert len(names) == 2
  assert all(name.startswith("shard-00001-of-00004-") for name in names)
  with opened(tmp_path, files, shard=2) as ledger:
    assert not ledger.get_many(["a"])


def test_a_killed_process_loses_only_what_is_not_published(tmp_path):
  files = LocalFiles()
  # Never closed, as if its process had been killed.
  killed = SegmentedLedger(
    tmp_path / "scratch.sqlite",
    str(tmp_path / "ledger" / ledger_shards.shard_name(1, 4)),
    files,
    publish_every_s=0.01,
  )
  for key in "abc":
    killed.add_outcome(outcome(key))
    killed.flush()
  wait_for(lambda: len(_published(tmp_path)) == 3)
  files.fails = True
  killed.add_outcome(outcome("lost"))
  with opened(tmp_path, LocalFiles()) as ledger:
    assert set(ledger.get_many(["a", "b", "c", "lost"])) == set("abc")
  files.fails = False
  killed.close()
  assert len(_published(tmp_path)) == 4


def test_what_attempts_cost_is_published(tmp_path):
  """Also those without an answer, so that `max_cost` counts over runs."""
  files = LocalFiles()
  estimate = Tokens(10, 100)
  with opened(tmp_path, files) as ledger:
    ledger.add_limit(256)
    for tokens in (None, Tokens(12, 3, 4), NO_TOKENS):
      attempt = ledger.start_attempt("a", "t", "m", estimate)
      ledger.end_attempt(attempt, "x", tokens=tokens)
    ledger.add_outcome(outcome("a"))
  expected = [Charge("m", False, Tokens(22, 103, 4))]
  for _ in range(2):
    with opened(tmp_path, files) as ledger:
      assert ledger.charges() == expected
      assert ledger.limits() == [256]
  assert len(_published(tmp_path)) == 1


def test_segments_of_earlier_versions_say_what_answers_cost(tmp_path):
  files = LocalFiles()
  with opened(tmp_path, files) as ledger:
    ledger.add_outcome(outcome("a", "eight by"))
    ledger.add_outcome(outcome("b", kind="gave_up", completion=None))
  [segment] = (tmp_path / "ledger").glob("*.jsonl")
  *answers, _ = segment.read_bytes().splitlines(keepends=True)
  segment.write_bytes(b"".join(answers))  # those had no line of charges
  with opened(tmp_path, files) as ledger:
    assert ledger.charges() == [Charge("m", False, Tokens(3, 2))]


def test_an_answer_that_is_published_after_its_charge_is_charged_once(tmp_path):
  """The publisher may come between the two."""
  files = LocalFiles()
  with opened(tmp_path, files, every_s=0.01) as ledger:
    attempt = ledger.start_attempt("a", "t", "m", Tokens(100, 256))
    ledger.end_attempt(attempt, "answered", tokens=Tokens(100, 50))
    wait_for(lambda: list((tmp_path / "ledger").glob("*.jsonl")))
    ledger.add_outcome(outcome("a"))
  assert len(list((tmp_path / "ledger").glob("*.jsonl"))) == 2
  with opened(tmp_path, files) as ledger:
    assert ledger.charges() == [Charge("m", False, Tokens(100, 50))]
    assert set(ledger.get_many(["a"])) == {"a"}


def _published(tmp_path):
  """The outcomes in a folder's segments."""
  files = (tmp_path / "ledger").glob("*.jsonl")
  lines = [line for file in files for line in file.read_bytes().splitlines()]
  return [line for line in lines if b'"key"' in line]


def test_of_two_answers_the_first_one_stays(tmp_path):
  files = LocalFiles()
  with opened(tmp_path, files) as first, opened(tmp_path, files) as second:
    second.add_outcome(outcome("a", "second"))
    first.add_outcome(outcome("a", "first"))
  time.sleep(0.002)
  for _ in range(2):
    with opened(tmp_path, files) as ledger:
      answer = ledger.get_many(["a"])["a"].completion
      # `second` was closed, and published, before `first`.
      assert answer is not None
      assert answer.text == "second"


def test_publishing_that_keeps_failing_is_reported(tmp_path):
  files = LocalFiles()
  files.fails = True

  def fill():
    with opened(tmp_path, files, every_s=0.005) as ledger:
      ledger.add_outcome(outcome("a"))
      while True:
        ledger.flush()

  with pytest.raises(UserError) as caught:
    fill()
  assert str(caught.value).endswith("the bucket is gone")
  assert caught.value.fields == ("ledger_dir",)
  assert "\n" not in str(caught.value)


def test_publishing_that_fails_now_and_then_loses_nothing(tmp_path):
  files = LocalFiles()
  with opened(tmp_path, files, every_s=0.005) as ledger:
    files.fails = True
    ledger.add_outcome(outcome("a"))
    time.sleep(0.01)
    files.fails = False
    wait_for(lambda: len(_published(tmp_path)) == 1)
    files.fails = True
    ledger.add_outcome(outcome("b"))
    files.fails = False
  assert len(_published(tmp_path)) == 2


@pytest.mark.parametrize(
  "line",
  [
    b"[]",
    b'{"key": "a"}',
    b"\xff",
    b"1" * 5000,
    b'{"key": "a", "kind": "answered", "teacher": "t", "model": "m",'
    b' "completion": null}',
    b'{"key": 1, "kind": "gave_up", "teacher": "t", "model": "m",'
    b' "completion": null}',
  ],
  ids=["list", "half", "bytes", "digits", "unanswered", "number"],
)
def test_a_damaged_segment_is_named(tmp_path, line):
  files = LocalFiles()
  with opened(tmp_path, files) as ledger:
    ledger.add_outcome(outcome("a"))
  [segment] = (tmp_path / "ledger").iterdir()
  segment.write_bytes(segment.read_bytes() + line + b"\n")
  with (
    pytest.raises(UserError, match=rf"{segment.name}:3: no outcome"),
    opened(tmp_path, files),
  ):
    pass


def test_a_second_writer_waits_for_the_first(tmp_path):
  writing = threading.Event()

  def write():
    with Ledger(tmp_path / "shard-00000-of-00001.sqlite") as first:
      first.add_outcome(outcome("a"))
      writing.set()
      time.sleep(0.3)

  def second(patience_s):
    return open_shard(
      str(tmp_path),
      0,
      1,
      kind="sqlite",
      files=LocalFiles(),
      patience_s=patience_s,
    )

  thread = threading.Thread(target=write)
  thread.start()
  assert writing.wait(10)
  with pytest.raises(UserError, match="another run"), second(0.02):
    pass
  with second(10) as ledger:
    assert set(ledger.get_many(["a"])) == {"a"}
  thread.join()


def test_shards_and_kinds():
  check = ledger_shards.check_num_shards
  name = ledger_shards.shard_name(3, 16)
  assert name == "shard-00003-of-00016"
  assert check([], None) is None
  assert check([], 5) == 5
  for there in (f"{name}.sqlite", f"{name}.sqlite.lock", f"{name}-1-a.jsonl"):
    assert check([there, "other"], None) == 16
    assert check([there], 16) == 16
    with pytest.raises(UserError, match="the ledger has 16 shards, not 5"):
      check([there], 5)
  with pytest.raises(UserError, match="has 4, 16 shards, not one number"):
    check([name, ledger_shards.shard_name(0, 4)], None)
  with pytest.raises(UserError, match="num_shards is 0; it must be from 1 to"):
    check([], 0)
  kind = ledger_shards.kind_of
  assert kind("auto", "/data/x") == "sqlite"
  assert kind("auto", "gs://x/y") == "segments"
  assert kind("segments", "/nfs/x") == "segments"
  with pytest.raises(UserError, match="needs a local folder, not 'gs://x'"):
    kind("sqlite", "gs://x")


def test_records_are_dealt_out_by_their_input_evenly():
  shards = [ledger_shards.shard_of(f"question {i}", 16) for i in range(16_000)]
  assert shards == [
    ledger_shards.shard_of(f"question {i}", 16) for i in range(16_000)
  ]
  counts = [shards.count(shard) for shard in range(16)]
  assert sum(counts) == 16_000
  # A thousand each, five standard deviations around it.
  assert min(counts) > 840
  assert max(counts) < 1160
