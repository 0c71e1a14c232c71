"""The pipeline: the records of `extract`, and nothing asked twice."""

import base64
import bz2
import collections
import dataclasses
import io
import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

pytest.importorskip(
  "apache_beam",
  reason="Apache Beam is not installed (pip install 'dss_jax[beam]')",
)

import apache_beam
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.cli import apache_beam as beam_command
from dss_jax.datasets import DataOptions
from dss_jax.datasets.records import Record, read_records, write_records
from dss_jax.rationales import extraction, prompt_files
from dss_jax.rationales.extraction_plan import (
  AskOptions,
  ChooseOptions,
  Endpoint,
  ExtractionPlan,
  TeacherPlan,
)
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Price, Prices
from dss_jax.rationales.prompts import Prompt
from dss_jax.rationales.teacher_requests import Sampling
from dss_jax.rationales.teachers.replay import Replay
from dss_jax.rationales.teachers.rules import TaxonliRules

pytestmark = pytest.mark.slow

SERVER = pathlib.Path(__file__).parents[2] / "support" / "misbehaving_server.py"
CANARY = "sk-canary-0123456789abcdef"
# What --runner=DirectRunner comes to without a network.
IN_MEMORY = ["--runner=FnApiRunner"]

# The server's answers repeat the question, which is made to hold an answer.
PROMPT = Prompt(
  name="colours",
  input_format="Thing: {input}\nWhy:",
  output_format=" {rationale} Answer: {answer}",
  answer_kind="label",
  answer_marker="Answer:",
  labels=("red", "blue"),
)


def colours(count):
  """Things with answers, but for every fifth; the first two are equal."""

  def thing(i):
    answer = f". Answer: {'red' if i % 2 else 'blue'}"
    return f"thing {i}" + (answer if i % 5 else "")

  return [Record(f"r{i}", thing(max(i, 1)), "red") for i in range(count)]


class Nobody:
  """A teacher that knows no record."""

  name, model, weight = "nobody", "nobody", 1.0

  def answer(self, record):
    return None


_NOBODY = TeacherPlan(Nobody())


class Server:
  """The misbehaving server in a process of its own."""

  def __init__(self, log: pathlib.Path, *flags: str):
    self.log = log
    self._process = subprocess.Popen(
      [sys.executable, str(SERVER), "--log", str(log), *flags],
      stdout=subprocess.PIPE,
      text=True,
    )
    assert self._process.stdout
    self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"

  def asked(self) -> collections.Counter[str]:
    """Prompt -> how often it came."""
    if not self.log.exists():
      return collections.Counter()
    lines = self.log.read_text().splitlines()
    return collections.Counter(json.loads(line)["prompt"] for line in lines)

  def close(self) -> None:
    self._process.kill()
    self._process.wait()
    assert self._process.stdout
    self._process.stdout.close()


@pytest.fixture
def start_server(tmp_path):
  servers = []

  def start(*flags: str) -> Server:
    servers.append(Server(tmp_path / f"server-{len(servers)}.log", *flags))
    return servers[-1]

  yield start
  for server in servers:
    server.close()


def plan_for(url: str, **changes: Any) -> ExtractionPlan:
  ask = {"concurrency": 4, "backoff_s": 0.01, "max_backoff_s": 0.05}
  ask |= {"timeout_s": 1.0, "max_attempts": 50}
  teacher = TeacherPlan(
    Endpoint("t", "m", base_url=url),
    sampling=Sampling(temperature=0.7),
    ask=AskOptions(**(ask | changes.pop("ask", {}))),
    samples=changes.pop("samples", 1),
  )
  return ExtractionPlan(PROMPT, (teacher,), **changes)


def run(
  records, plan, folder, *, shards: int | None = 3, name="out", **rest: Any
):
  """Runs the pipeline; its records and counters."""
  path = folder / f"{name}.jsonl"
  counters = apache_beam.run_pipeline(
    apache_beam.Create(records),
    apache_beam.ExtractRationales(
      plan, str(folder / "ledger"), num_shards=shards, **rest
    ),
    apache_beam.WriteRecords([str(path)]),
    apache_beam.pipeline_options(IN_MEMORY),
  )
  made, problems = read_records(path)
  assert not problems
  return made, counters


def timeless(records):
  """id -> the record as JSON values, without when and how long."""
  found = {}
  for record in records:
    values = record.to_dict()
    for rationale in values["rationales"]:
      for key in ("unix", "seconds"):
        rationale.pop(key, None)
    found[record.id] = values
  assert len(found) == len(records)
  return found


def extracted(records, plan, folder):
  """What `extract` makes of the same."""
  source = extraction.RecordSource.of_records("x", records)
  extraction.extract(source, plan, folder, stream=io.StringIO())
  return read_records(folder / "train.jsonl")[0]


# -- the same records


@pytest.mark.parametrize("as_lines", [False, True])
def test_rules_need_neither_network_nor_ledger(tmp_path, as_lines):
  options = DataOptions(taxonli_num_train=30)
  records = datasets.load_source_split("taxonli", "train", options=options)
  prompt = prompt_files.load("taxonli")
  plan = ExtractionPlan(prompt, (TeacherPlan(TaxonliRules(error_rate=0.3)),))
  elements = records
  if as_lines:
    elements = [json.dumps(record.to_dict()) for record in records]
  made, counters = run(elements, plan, tmp_path)
  assert timeless(made) == timeless(extracted(records, plan, tmp_path / "x"))
  assert counters == {"records": 30, "status_ok": 30, "written": 30}
  assert not (tmp_path / "ledger").exists()


def test_replay_is_read_where_it_runs(tmp_path, fixtures):
  options = DataOptions(data_dir=str(fixtures / "release"))
  records = datasets.load_source_split("cqa", "train", options=options)
  teacher = Replay("cqa", "train", options)
  plan = ExtractionPlan(prompt_files.load("cqa"), (TeacherPlan(teacher),))
  completion = teacher.answer(records[0])
  assert completion is not None
  carried = pickle.dumps(teacher)
  assert completion.text[:40].encode() not in carried
  assert pickle.loads(carried).answer(records[0]) == completion
  made, counters = run(records, plan, tmp_path)
  assert timeless(made) == timeless(extracted(records, plan, tmp_path / "x"))
  assert counters["records"] == len(records)


def test_an_endpoint_gives_the_records_of_extract(tmp_path, start_server):
  server = start_server("--faults=0.35", "--hang=0.6")
  records = colours(40)
  plan = plan_for(
    server.url,
    samples=2,
    retry_unparsed=1,
    choose=ChooseOptions(gold="rationalise", keep="majority"),
    ask={"timeout_s": 0.4},
  )
  plan = dataclasses.replace(plan, teachers=(*plan.teachers, _NOBODY))
  made, counters = run(records, plan, tmp_path)
  assert timeless(made) == timeless(extracted(records, plan, tmp_path / "x"))
  assert counters["records"] == counters["written"] == 40
  assert counters["status_ok"] > 0
  assert counters["answered"] >= 80
  assert counters["attempts"] == counters["answered"] + counters["retries"]
  assert (
    sum(v for k, v in counters.items() if k.startswith("fault_"))
    == (counters["retries"])
  )


def test_equal_inputs_are_asked_once(tmp_path, start_server):
  server = start_server("--faults=0")
  _, counters = run(colours(10), plan_for(server.url), tmp_path)
  assert (counters["answered"], counters["duplicates"]) == (9, 1)
  assert set(server.asked().values()) == {1}


# -- nothing is asked twice


@pytest.mark.parametrize("kind", ["sqlite", "segments"])
def test_a_second_run_asks_nothing(tmp_path, start_server, kind):
  server = start_server("--faults=0")
  plan = plan_for(server.url, samples=2)
  first, _ = run(colours(20), plan, tmp_path, ledger_kind=kind)
  asked = server.asked()
  # The number of shards is the ledger's own, with or without the flag.
  for shards in (3, None):
    again, counters = run(
      colours(20), plan, tmp_path, ledger_kind=kind, shards=shards
    )
    assert server.asked() == asked
    assert [r.to_dict() for r in again] == [r.to_dict() for r in first]
    assert "attempts" not in counters
    # Two records are one request.
    assert counters["already"] + counters.get("duplicates", 0) == 40
  files = sorted(p.name for p in (tmp_path / "ledger").iterdir())
  suffix = ".jsonl" if kind == "segments" else ".sqlite"
  assert len([f for f in files if f.endswith(suffix)]) == 3
  # Without asking, the same records once more, from another plan's view too.
  chosen, counters = run(
    colours(20), plan, tmp_path, ledger_kind=kind, ask=False, name="offline"
  )
  assert sorted(r.id for r in chosen) == sorted(r.id for r in first)
  assert server.asked() == asked


@pytest.mark.parametrize("kind", ["sqlite", "segments"])
def test_a_bundle_that_fails_midway_starts_again(
  tmp_path, start_server, monkeypatch, kind
):
  server = start_server("--faults=0")
  plan = plan_for(server.url)
  chosen = extraction.chosen_records
  calls = []

  def fail_midway(*args):
    calls.append(args)
    for number, record in enumerate(chosen(*args)):
      if len(calls) == 2 and number == 1:
        raise RuntimeError("the worker is gone")
      yield record

  monkeypatch.setattr(extraction, "chosen_records", fail_midway)
  with pytest.raises(RuntimeError, match="the worker is gone"):
    run(colours(24), plan, tmp_path, ledger_kind=kind)
  assert not (tmp_path / "out.jsonl").exists()
  asked = server.asked()
  assert 0 < len(asked) < 24
  made, counters = run(colours(24), plan, tmp_path, ledger_kind=kind)
  assert len(made) == 24
  assert set(server.asked().values()) == {1}
  assert counters["already"] == sum(asked.values())


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "processes"), [("sqlite", 1), ("segments", 1), ("sqlite", 2)]
)
def test_a_killed_run_continues(tmp_path, start_server, kind, processes):
  server = start_server("--faults=0", "--delay=0.02")
  records = colours(120)
  write_records(tmp_path / "in.jsonl", records)
  argv = _flags(tmp_path, server, "--ledger_kind", kind)
  if processes > 1:
    argv += ["--direct_running_mode=multi_processing"]
    argv += [f"--direct_num_workers={processes}"]
  process = subprocess.Popen(
    [sys.executable, "-m", "dss_jax.cli.apache_beam", *argv],
    start_new_session=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    deadline = time.monotonic() + 100
    while sum(server.asked().values()) < 60:
      assert time.monotonic() < deadline
      assert process.poll() is None
      time.sleep(0.02)
  finally:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
  assert not (tmp_path / "out.jsonl").exists()
  time.sleep(0.1)  # what is under way may still arrive there
  before = server.asked()
  committed = _committed(tmp_path / "ledger")
  assert 0 < len(committed) <= len(before) < 119
  done = subprocess.run(
    [sys.executable, "-m", "dss_jax.cli.apache_beam", *argv, "--json"],
    capture_output=True,
    check=True,
    timeout=200,
  )
  counters = json.loads(done.stdout)["counters"]
  made, _ = read_records(tmp_path / "out.jsonl")
  assert sorted(r.id for r in made) == sorted(r.id for r in records)
  assert counters["already"] == len(committed)
  assert counters["answered"] == 119 - len(committed)
  assert len(server.asked()) == 119
  # Sent again: only what was sent, but not committed.
  again = sum(server.asked().values()) - 119
  assert again <= len(before) - len(committed)
  if kind == "sqlite":
    assert again <= 4 * processes  # under way when it was killed
  assert _committed(tmp_path / "ledger") >= committed


def _flags(folder, server, *flags):
  prompt = folder / "colours.toml"
  prompt.write_text(
    'input_format = "Thing: {input}\\nWhy:"\n'
    'output_format = " {rationale} Answer: {answer}"\n'
    'answer_kind = "label"\nanswer_marker = "Answer:"\n'
    'labels = ["red", "blue"]\n'
    '[[exemplars]]\ninput = "x"\nrationale = "y"\nlabel = "red"\n'
  )
  return [
    f"--input={folder / 'in.jsonl'}",
    f"--output={folder / 'out.jsonl'}",
    f"--prompt={prompt}",
    f"--base_url={server.url}",
    "--model=m",
    "--concurrency=4",
    "--num_shards=4",
    *IN_MEMORY,
    *flags,
  ]


def _committed(folder):
  """Keys of the requests that a ledger has answers to."""
  keys = set()
  for path in folder.glob("shard-*"):
    if path.suffix == ".sqlite":
      with Ledger(path, read_only=True) as ledger:
        keys |= {outcome.key for outcome in ledger.outcomes()}
    elif path.suffix == ".jsonl":
      lines = path.read_bytes().splitlines()
      found = map(json.loads, lines)
      keys |= {each["key"] for each in found if "charges" not in each}
  return keys


# -- failures


def test_failures_become_statuses(tmp_path, start_server):
  server = start_server("--faults=1", "--only=500,drop,invalid_json")
  # The prompt of CQA shows choices; half of the records have none.
  metas = [{}, {"choices": ["a", "b"]}] * 6
  records = [
    Record(f"r{i}", f"which one, {i}?", meta=meta)
    for i, meta in enumerate(metas)
  ]
  plan = plan_for(server.url, ask={"max_attempts": 2})
  prompt = dataclasses.replace(
    PROMPT, input_format="Thing: {input}\n{choices}\nWhy:"
  )
  plan = dataclasses.replace(plan, prompt=prompt)
  made, counters = run(records, plan, tmp_path, shards=12)
  assert sorted(r.id for r in made) == sorted(r.id for r in records)
  statuses = {r.id: [x.status for x in r.rationales] for r in made}
  for i in range(12):
    assert statuses[f"r{i}"] == ["gave_up" if i % 2 else "unasked"]
  assert (counters["status_gave_up"], counters["status_unasked"]) == (6, 6)
  assert counters["gave_up"] == 6
  # Asked again where that is wished, and not otherwise.
  count = sum(server.asked().values())
  run(records, plan, tmp_path, shards=12)
  assert sum(server.asked().values()) == count


def test_a_shard_that_stops_keeps_its_records(tmp_path, start_server):
  server = start_server("--faults=0")
  plan = plan_for(server.url, ask={"max_cost": 0.9})
  # 256 tokens at most are 0.256; the 7 that are written, 0.007.
  prices = Prices(({"m": Price(0.0, 1000.0)},))
  made, counters = run(colours(60), plan, tmp_path, prices=prices)
  assert len(made) == 60
  assert counters["shards_stopped"] == 3
  assert counters["answered"] == 3 * 7
  assert counters["status_unanswered"] >= 60 - 1 - 21
  assert counters["status_ok"] > 0


def test_what_nobody_can_answer_is_reported_in_one_line(tmp_path, monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  plan = plan_for("https://models.invalid/v1")
  with pytest.raises(UserError) as caught:
    run(colours(3), plan, tmp_path)
  assert "OPENAI_API_KEY holds no API key" in str(caught.value)
  assert "\n" not in str(caught.value)


# -- keys


def test_keys_are_no_part_of_the_pipeline(
  tmp_path, start_server, monkeypatch, caplog
):
  server = start_server("--faults=0.3", "--only=500")
  monkeypatch.setenv("OPENAI_API_KEY", CANARY)
  transform = apache_beam.ExtractRationales(
    plan_for(server.url), str(tmp_path / "ledger"), num_shards=2
  )
  pipeline = apache_beam.Pipeline(
    options=apache_beam.pipeline_options(IN_MEMORY)
  )
  _ = (
    pipeline
    | apache_beam.Create(colours(5))
    | transform
    | apache_beam.WriteRecords([str(tmp_path / "out.jsonl")])
  )
  texts = []
  for each in pipeline.to_runner_api().components.transforms.values():
    texts += [each.spec.payload, *_unpacked(each.spec.payload)]
  assert any(server.url.encode() in text for text in texts)
  assert not any(CANARY.encode() in text for text in texts)
  pipeline.run().wait_until_finish()
  assert sum(server.asked().values()) >= 4
  assert CANARY not in caplog.text
  for path in tmp_path.rglob("*"):
    assert path.is_dir() or CANARY.encode() not in path.read_bytes()


def _unpacked(payload: bytes) -> list[bytes]:
  """The pickles in a payload, which Beam packs as base64 of bzip2."""
  found = []
  for match in re.finditer(rb"Qlpo[A-Za-z0-9+/]+=*", payload):
    text = match[0]
    found.append(bz2.decompress(base64.b64decode(text[: len(text) // 4 * 4])))
  return found


# -- limits, files, flags


def test_limits_are_those_of_the_whole_pipeline(tmp_path):
  ask = {"requests_per_minute": 600, "tokens_per_minute": 8e3, "max_cost": 2}
  plan = plan_for("http://127.0.0.1:1/v1", ask=ask)
  transform = apache_beam.ExtractRationales(
    plan, str(tmp_path), num_shards=8, parallel_shards=4
  )
  [own] = transform._plan.teachers
  assert own.ask.requests_per_minute == 150
  assert own.ask.tokens_per_minute == 2e3
  assert own.ask.max_cost == 0.25
  assert own.ask.concurrency == 4
  with pytest.raises(
    UserError, match="parallel_shards is 9; it must be from 1 to"
  ):
    apache_beam.ExtractRationales(
      plan, str(tmp_path), num_shards=8, parallel_shards=9
    )


def test_a_ledger_keeps_its_number_of_shards(tmp_path, start_server):
  server = start_server("--faults=0")
  run(colours(6), plan_for(server.url), tmp_path, shards=2)
  with pytest.raises(UserError, match="the ledger has 2 shards, not 5"):
    run(colours(6), plan_for(server.url), tmp_path, shards=5)


def test_files_are_read_as_by_extract(tmp_path):
  (tmp_path / "a-0.jsonl").write_text(
    '{"question": "one"}\n{"question": "two", "id": "x"}\n'
  )
  (tmp_path / "a-1.csv").write_text("question\nthree\n")
  plan = ExtractionPlan(PROMPT, (_NOBODY,))

  def read(pattern, **rest):
    out = tmp_path / "out" / "read.jsonl"
    counters = apache_beam.run_pipeline(
      apache_beam.ReadRecords(
        str(tmp_path / pattern), field_mapping={"input": "question"}, **rest
      ),
      apache_beam.ExtractRationales(plan, str(tmp_path / "ledger")),
      apache_beam.WriteRecords([str(out)]),
      apache_beam.pipeline_options(IN_MEMORY),
    )
    found = read_records(out)[0]
    return {r.id: r.input for r in found}, counters

  assert read("a-0.jsonl")[0] == {"line-1": "one", "x": "two"}
  assert read("a-0.jsonl", limit=1)[0] == {"line-1": "one"}
  found, _ = read("a-*")
  assert found == {
    "a-0.jsonl:line-1": "one",
    "x": "two",
    "a-1.csv:line-2": "three",
  }
  with pytest.raises(UserError, match="limit is for one file"):
    read("a-*", limit=1)
  with pytest.raises(UserError, match="no such file"):
    read("b-*")
  (tmp_path / "a-0.jsonl").write_text('{"question": "one"}\n{"answer": 1}\n[\n')
  with pytest.raises(UserError, match=r"a-0.jsonl:2: no input"):
    read("a-0.jsonl")
  found, counters = read("a-0.jsonl", skip_malformed=True)
  assert found == {"line-1": "one"}
  assert counters["malformed_lines"] == 2


class Bucket(LocalFileSystem):
  """An object store: no folders, and nothing of a file before it is closed."""

  root = ""

  @classmethod
  def scheme(cls):
    return "bucket"

  def _local(self, path):
    return os.path.join(self.root, path.removeprefix("bucket://"))

  def join(self, basepath, *paths):
    return "/".join([basepath.rstrip("/"), *paths])

  def split(self, path):
    head, _, tail = path.rpartition("/")
    return head, tail

  def has_dirs(self):
    return False

  def mkdirs(self, path):
    raise OSError("there are no folders")

  def _list(self, prefix):
    for path in sorted(pathlib.Path(self.root).rglob("*")):
      name = f"bucket://{path.relative_to(self.root)}"
      if path.is_file() and name.startswith(prefix):
        yield FileMetadata(name, path.stat().st_size, 0.0)

  def exists(self, path):
    return os.path.isfile(self._local(path))

  def open(self, path, mime_type="", compression_type="auto"):
    return open(self._local(path), "rb")

  def create(self, path, mime_type="", compression_type="auto"):
    os.makedirs(os.path.dirname(self._local(path)), exist_ok=True)
    return open(self._local(path), "xb")

  def rename(self, sources, targets):
    for source, target in zip(sources, targets, strict=True):
      os.replace(self._local(source), self._local(target))


def test_everything_may_lie_in_a_bucket(tmp_path, start_server, monkeypatch):
  monkeypatch.setattr(Bucket, "root", str(tmp_path / "cloud"))
  server = start_server("--faults=0")
  (tmp_path / "cloud" / "in").mkdir(parents=True)
  for i in range(2):
    part = colours(20)[10 * i : 10 * (i + 1)]
    write_records(tmp_path / "cloud" / "in" / f"{i}.jsonl", part)
  flags = [
    flag
    for flag in _flags(tmp_path, server)
    if not flag.startswith(("--input", "--output"))
  ]
  flags += ["--input=bucket://in/*.jsonl", "--output=bucket://out/x.parquet"]
  assert beam_command.main(flags) == 0
  asked = server.asked()
  assert sum(asked.values()) == 19
  assert beam_command.main(flags) == 0
  assert server.asked() == asked
  made, _ = read_records(tmp_path / "cloud" / "out" / "x.parquet")
  write_records(tmp_path / "in.jsonl", colours(20))
  # The same as from a folder.
  assert beam_command.main(_flags(tmp_path, server)) == 0
  local, _ = read_records(tmp_path / "out.jsonl")
  assert timeless(made) == timeless(local)
  names = {p.name[:20] for p in (tmp_path / "cloud/out/ledger").iterdir()}
  assert names == {f"shard-{i:05d}-of-00004"[:20] for i in range(4)}
  assert not list((tmp_path / "cloud").rglob("*.tmp"))


def test_shards_of_the_output_are_whole(tmp_path):
  records = colours(7)

  def write(records, paths, shards):
    with apache_beam.Pipeline(
      options=apache_beam.pipeline_options(IN_MEMORY)
    ) as pipeline:
      _ = (
        pipeline
        | apache_beam.Create(records)
        | apache_beam.WriteRecords(list(map(str, paths)), num_shards=shards)
      )

  folder = tmp_path / "new"
  paths = [folder / "x.jsonl", folder / "x.parquet"]
  write(records, paths, 12)
  assert len(list(folder.iterdir())) == 24  # of them, five at least are empty
  for suffix in ("jsonl", "parquet"):
    found = {}
    for path in folder.glob(f"x-?????-of-00012.{suffix}"):
      found |= {r.id: r.to_dict() for r in read_records(path)[0]}
    assert found == {r.id: r.to_dict() for r in records}
  with pytest.raises(UserError, match="of another number of shards"):
    apache_beam.WriteRecords([str(paths[0])], num_shards=3)
  write(records[:2], paths, 12)  # takes their place
  with pytest.raises(UserError, match=r"unknown suffix '\.txt'"):
    apache_beam.WriteRecords([str(folder / "x.txt")])
  with pytest.raises(ValueError, match="id 'r1' appears twice"):
    write([records[1], records[1]], [folder / "y.jsonl"], 1)
  assert not (folder / "y.jsonl").exists()
  assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_the_command(tmp_path, start_server, capsys):
  server = start_server("--faults=0")
  write_records(tmp_path / "in.jsonl", colours(10))
  flags = _flags(tmp_path, server)
  assert beam_command.main([*flags, "--json"]) == 0
  summary = json.loads(capsys.readouterr().out)
  assert summary["files"] == [str(tmp_path / "out.jsonl")]
  assert summary["counters"]["answered"] == 9
  assert len(list((tmp_path / "ledger").glob("*.sqlite"))) == 4
  for extra, message in [
    ("--sampels=3", "unknown argument '--sampels=3'"),
    ("--dry_run", "--dry_run is for `dss-jax extract`"),
    (f"--output_dir={tmp_path}", "--output and --output_dir exclude"),
    ("--ledger_kind=cloud", "ledger_kind is 'cloud'; it must be"),
    (
      "--output_shards=0",
      "output_shards is 0; it must be from 1 to 99999 (--output_shards)",
    ),
    ("--num_shards=0", "num_shards is 0; it must be"),
  ]:
    assert beam_command.main([*flags, extra]) == 2
    assert message in capsys.readouterr().err
