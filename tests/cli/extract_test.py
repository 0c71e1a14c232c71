"""`dss-jax extract`, from the flags to the files."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from dss_jax.datasets.records import Record, read_records, write_records
from dss_jax.main import main

CANARY = "sk-canary-0123456789abcdef"

PROMPT = """
input_format = "Q: {input}\\nA:"
output_format = " {rationale} So the answer is {answer}."
answer_kind = "label"
answer_marker = "So the answer is"
labels = ["red", "blue"]
stop = ["\\nQ:"]
[[exemplars]]
input = "sky"
rationale = "It is day."
label = "blue"
"""
RED, BLUE = (f"It is so. So the answer is {x}." for x in ("red", "blue"))


@pytest.fixture
def mine(tmp_path, loopback):
  """`dss-jax extract` on six records of one's own, asked of the loopback."""
  loopback.answer = lambda body, times: RED
  (tmp_path / "mine.toml").write_text(PROMPT)
  records = [Record(f"r{i}", f"thing {i}", "red") for i in range(6)]
  write_records(tmp_path / "mine.jsonl", records)

  def run(*flags):
    return main(
      [
        "extract",
        *("--input", str(tmp_path / "mine.jsonl")),
        *("--prompt", str(tmp_path / "mine.toml")),
        *("--output_dir", str(tmp_path / "out")),
        *("--base_url", loopback.base_url, "--model", "m"),
        *map(str, flags),
      ]
    )

  return run


@pytest.fixture
def cqa(tmp_path, fixtures):
  """`dss-jax extract` on the fixture's CQA."""

  def run(*flags):
    return main(
      [
        "extract",
        *("--dataset", "cqa", "--data_dir", str(fixtures / "release")),
        *("--output_dir", str(tmp_path / "out")),
        *map(str, flags),
      ]
    )

  return run


def written(tmp_path, name="train.jsonl"):
  records, problems = read_records(tmp_path / "out" / name)
  assert not problems
  return records


def report(tmp_path, name="train"):
  return json.loads((tmp_path / "out" / f"{name}.report.json").read_text())


def of_error(capsys):
  """The one line on standard error."""
  text = capsys.readouterr().err
  assert text.count("\n") == 1, text
  return text


# --- the ordinary run --------------------------------------------------------


def test_from_records_to_records(mine, tmp_path, loopback, capsys):
  assert mine() == 0
  records = written(tmp_path)
  assert [record.id for record in records] == [f"r{i}" for i in range(6)]
  for record in records:
    (rationale,) = record.rationales
    assert (rationale.text, rationale.label) == ("It is so.", "red")
    assert (rationale.source, rationale.weight) == ("m", 1.0)
    assert rationale.extra["model"] == "m-001"
    assert rationale.extra["sampling"]["max_tokens"] == 256
    assert rationale.extra["prompt_tokens"] == 100
    assert record.meta["choosing"]["agrees"] is True
  (body,) = [b for b in loopback.bodies if "thing 3" in str(b["messages"])]
  assert body["messages"] == [
    {"role": "user", "content": "Q: sky"},
    {"role": "assistant", "content": "It is day. So the answer is blue."},
    {"role": "user", "content": "Q: thing 3"},
  ]
  assert {p.name for p in (tmp_path / "out").iterdir()} >= {
    "ledger.sqlite", "train.jsonl", "train.report.html", "train.report.json",
    "train.run.json",
  }  # fmt: skip
  found = report(tmp_path)
  assert found["parse_rate"] == {"count": 6, "of": 6, "percent": 100.0}
  assert found["prompt_tokens"] == 600
  made = json.loads((tmp_path / "out" / "train.run.json").read_text())
  assert made["asked"]["m"]["first"]["answered"] == 6
  assert made["teachers"][0]["base_url"] == loopback.base_url
  text = capsys.readouterr().out
  assert re.search(r"m: 6 answered; \d+ s\n", text)
  assert "label could be read (parse rate)" in text
  # Nothing is asked twice.
  assert mine() == 0
  assert len(loopback.bodies) == 6
  assert "m: 0 answered, 6 answered before;" in capsys.readouterr().out


def test_completion_style(mine, loopback):
  assert mine("--style", "completion", "--limit", 1) == 0
  (body,) = loopback.bodies
  assert body["stop"] == ["\nQ:"]
  assert body["prompt"] == (
    "Q: sky\nA: It is day. So the answer is blue.\n\nQ: thing 0\nA:"
  )


def test_all_rounds(mine, tmp_path, loopback):
  """Samples, a retry, and a rationale for the gold label."""

  def answer(body, times):
    text = body["messages"][-1]["content"]
    if "correct answer is red" in text:
      return RED
    if "thing 0" in text and body["temperature"] < 0.9:
      return "Hm."
    return BLUE if "thing 1" in text else RED

  loopback.answer = answer
  flags = ["--samples=2", "--temperature=0.5", "--retry_unparsed=1"]
  flags += ["--retry_temperature=0.9", "--gold=rationalise"]
  assert mine(*flags) == 0
  assert len(loopback.bodies) == 12 + 2 + 1
  zero, one, two, *_ = written(tmp_path)
  assert [r.status for r in zero.rationales] == ["ok", "ok"]
  assert zero.meta["choosing"]["left_out"] == {"unusable": 2}
  assert [r.extra.get("rationalised") for r in one.rationales] == [True]
  assert len(two.rationales) == 2
  asked = json.loads((tmp_path / "out" / "train.run.json").read_text())["asked"]
  assert {k: v["answered"] for k, v in asked["m"].items()} == {
    "first": 12, "retry 1": 2, "rationalise": 1,
  }  # fmt: skip
  found = report(tmp_path)
  assert found["parse_rate"] == {"count": 12, "of": 14, "percent": 85.71}
  assert mine(*flags) == 0
  assert len(loopback.bodies) == 15


def test_chosen_otherwise_without_asking(mine, tmp_path, loopback, capsys):
  loopback.answer = lambda body, times: (
    BLUE if "thing 1" in body["messages"][-1]["content"] else RED
  )
  assert mine() == 0
  assert sum(r.weight > 0 for x in written(tmp_path) for r in x.rationales) == 6
  asked = len(loopback.bodies)
  assert mine("--no_ask", "--gold=drop", "--output_split=strict") == 0
  assert len(loopback.bodies) == asked
  weights = [
    [r.weight for r in record.rationales]
    for record in written(tmp_path, "strict.jsonl")
  ]
  assert weights == [[1.0], [0.0], *[[1.0]] * 4]
  assert set(report(tmp_path, "strict")["examples"]) == {"disagrees_with_gold"}
  # Flags that were never asked with have no answers, and spoil nothing.
  before = (tmp_path / "out" / "train.jsonl").read_bytes()
  capsys.readouterr()
  assert mine("--no_ask", "--temperature=1") == 2
  assert "holds no answer to these requests" in of_error(capsys)
  assert (tmp_path / "out" / "train.jsonl").read_bytes() == before


def test_equal_inputs_are_asked_once(mine, tmp_path, loopback):
  records = [Record(f"r{i}", f"thing {i % 2}") for i in range(6)]
  write_records(tmp_path / "mine.jsonl", records)
  assert mine() == 0
  assert len(loopback.bodies) == 2
  assert all(record.rationales for record in written(tmp_path))
  assert written(tmp_path)[0].meta["voted_label"] == "red"
  assert report(tmp_path)["duplicate_requests"] == 4


def test_records_that_do_not_fit_the_prompt(mine, tmp_path, loopback, capsys):
  write_records(
    tmp_path / "mine.jsonl",
    [Record("a", "one</s>two", "red"), Record("b", "one", "red")],
  )
  text = PROMPT.replace("{input}", "{premise} {hypothesis}").partition("[[")[0]
  text += 'input_split = "</s>"\ninput_parts = ["premise", "hypothesis"]\n'
  (tmp_path / "mine.toml").write_text(text + 'instruction = "Say it."\n')
  assert mine() == 0
  assert len(loopback.bodies) == 1
  assert [r.rationales[0].status for r in written(tmp_path)] == [
    "ok",
    "unasked",
  ]
  text = capsys.readouterr().out
  assert "unasked (1): the record does not fit the prompt" in text
  assert "the input has 1 parts around" in text
  write_records(tmp_path / "mine.jsonl", [Record("b", "one", "red")])
  assert mine() == 2
  error = capsys.readouterr().err
  assert "no record fits the prompt; the first: record b" in error


def test_several_teachers_with_weights(mine, tmp_path, loopback, monkeypatch):
  loopback.answer = lambda body, times: {"m": RED}.get(body["model"], BLUE)
  (tmp_path / "teachers.toml").write_text(
    "[[teacher]]\nname = 'big'\nweight = 3\n"
    "[[teacher]]\nmodel = 'n'\nsamples = 2\ntemperature = 1\nstop = ['.']\n"
  )
  assert mine("--teachers", tmp_path / "teachers.toml") == 0
  (record, *_) = written(tmp_path)
  assert [(r.source, r.label, r.weight) for r in record.rationales] == [
    ("big", "red", pytest.approx(3 * 3 / 5)),
    ("n", "blue", pytest.approx(2 / 5)),
    ("n", "blue", pytest.approx(2 / 5)),
  ]
  assert [t["name"] for t in report(tmp_path)["teachers"]] == ["big", "n"]
  # All are connected before the first is asked.
  monkeypatch.delenv("OTHER_KEY", raising=False)
  with (tmp_path / "teachers.toml").open("a") as file:
    file.write("base_url = 'https://x.example/v1'\napi_key_env = 'OTHER_KEY'\n")
  asked = len(loopback.bodies)
  assert mine("--teachers", tmp_path / "teachers.toml", "--top_p=0.5") == 2
  assert len(loopback.bodies) == asked


# --- without a model ---------------------------------------------------------


@pytest.mark.parametrize("parser", ["official", "tolerant"])
def test_replay(cqa, tmp_path, parser, capsys):
  assert cqa("--teacher=replay", f"--parser={parser}", "--json") == 0
  printed = json.loads(capsys.readouterr().out)
  found = printed["report"]
  assert found["records"] == 14
  read = found["parse_rate"]
  assert read["of"] == 14
  assert read["count"] == sum(
    r.label is not None for x in written(tmp_path) for r in x.rationales
  )
  assert found == report(tmp_path)
  assert (printed["stopped"], printed["asked"]) == ("", {})
  assert printed["files"][0] == str(tmp_path / "out" / "train.jsonl")


@pytest.mark.shared
@pytest.mark.parametrize(
  ("dataset", "split", "rows", "unparsed"),
  [("svamp", "train", 800, 13), ("svamp", "test", 200, 2),
   ("cqa", "train", 9741, 3), ("cqa", "test", 1221, 0)],
)  # fmt: skip
def test_replay_gives_the_published_counts(
  shared_data, tmp_path, capsys, dataset, split, rows, unparsed
):
  flags = ["--teacher=replay", "--parser=official", "--json"]
  flags += [f"--data_dir={shared_data / 'dss_release'}", f"--split={split}"]
  flags += [f"--dataset={dataset}", f"--output_dir={tmp_path}"]
  assert main(["extract", *flags]) == 0
  found = json.loads(capsys.readouterr().out)["report"]
  assert found["parse_rate"]["of"] == rows
  assert rows - found["parse_rate"]["count"] == unparsed


def test_rules(tmp_path, capsys):
  flags = ["--dataset=taxonli", "--taxonli_num_train=50", "--teacher=rules"]
  flags += [f"--output_dir={tmp_path / 'out'}", "--error_rate=0.3", "--json"]
  assert main(["extract", *flags]) == 0
  found = json.loads(capsys.readouterr().out)["report"]
  assert found["parse_rate"] == {"count": 50, "of": 50, "percent": 100.0}
  assert 20 <= found["agreement"]["count"] < 50


# --- without asking ----------------------------------------------------------


def test_show_prompt(cqa, mine, loopback, tmp_path, capsys):
  assert cqa("--model=m", "--show_prompt", "--num_exemplars=1") == 0
  text = capsys.readouterr().out
  assert "--- POST /v1/chat/completions, for record train-0" in text
  assert '"max_tokens": 256' in text
  assert text.count("--- user\n") == 2
  assert text.count("--- assistant\n") == 1
  assert mine("--show_prompt", "--style=completion") == 0
  assert capsys.readouterr().out == (
    "--- POST /v1/completions, for record r0\n"
    '--- {"model": "m", "max_tokens": 256, "temperature": 0.0, "stop":'
    ' ["\\nQ:"]}\n'
    "Q: sky\nA: It is day. So the answer is blue.\n\nQ: thing 0\nA:\n"
  )
  assert cqa("--teacher=replay", "--show_prompt") == 0
  assert "asked in words" in capsys.readouterr().out
  # The very body, as this endpoint gets it.
  changed = ("--max_tokens_field=max_completion_tokens", "--omit_fields=stop")
  assert mine("--show_prompt", "--json", *changed) == 0
  shown = json.loads(capsys.readouterr().out)
  assert (shown["max_completion_tokens"], "stop" in shown) == (256, False)
  assert not loopback.bodies
  assert not (tmp_path / "out").exists()
  assert mine("--limit=1", *changed) == 0
  assert loopback.bodies == [shown]


def test_show_prompt_with_the_gold_label(mine, capsys):
  assert mine("--show_prompt", "--gold=rationalise", "--limit=1") == 0
  text = capsys.readouterr().out
  assert "with the gold label as a hint" in text
  assert "The correct answer is red. Explain why." in text


def test_dry_run(mine, tmp_path, loopback, capsys):
  prices = tmp_path / "prices.toml"
  prices.write_text('[models."m"]\nprompt = 10.0\ncompletion = 100.0\n')
  flags = ["--dry_run", "--prices", prices]
  assert mine(*flags, "--json", "--samples=2", "--temperature=1") == 0
  found = json.loads(capsys.readouterr().out)["m"]
  assert (found["requests"], found["answered"]) == (12, 0)
  assert found["most_completion_tokens"] == 12 * 256
  cost = (10 * found["prompt_tokens"] + 100 * found["completion_tokens"]) / 1e6
  assert found["cost"] == pytest.approx(cost)
  assert not loopback.bodies
  assert not (tmp_path / "out").exists()
  assert mine("--limit=4") == 0
  capsys.readouterr()
  assert mine(*flags, "--json") == 0
  found = json.loads(capsys.readouterr().out)["m"]
  assert (found["requests"], found["answered"]) == (2, 4)
  assert found["completion_tokens"] == 2 * 10  # as the answers so far
  assert found["is_measured"] is True
  assert mine(*flags) == 0
  text = capsys.readouterr().out
  assert re.search(r"requests to send +2\n", text)
  assert max(map(len, text.splitlines())) <= 80
  assert mine("--dry_run") == 0
  assert "no table has the model's price" in capsys.readouterr().out
  # Of a model that was never asked, nobody knows how long it thinks.
  assert mine("--dry_run", "--model=another") == 0
  assert "If it thinks before it answers" in capsys.readouterr().out


def test_batch_files_there_and_back(mine, tmp_path, loopback, capsys):
  """A provider's batch interface in between, with an error and a retry."""
  first, second = tmp_path / "b1", tmp_path / "b2"
  flags = ["--retry_unparsed=1", "--gold=rationalise"]
  assert mine(*flags, "--write_batch", first) == 0
  assert "6 requests in 1 files" in capsys.readouterr().out
  results = tmp_path / "results.jsonl"
  assert _serve_batch(first, results, "thing 0", "Hm.") == 6
  read = ["--read_batch", results, "--batch_dir", first]
  assert mine(*flags, *read) == 0
  assert "results: 6 answered" in capsys.readouterr().err
  assert report(tmp_path)["statuses"] == {"ok": 5, "no_marker": 1, "unanswered": 1}  # fmt: skip
  assert mine(*flags, "--write_batch", second) == 0
  assert "1 requests in 1 files; 6 are answered" in capsys.readouterr().out
  assert _serve_batch(second, results, "thing 0", BLUE) == 1
  assert mine(*flags, "--read_batch", results, "--batch_dir", second) == 0
  third = tmp_path / "b3"
  assert mine(*flags, "--write_batch", third) == 0
  assert _serve_batch(third, results, "thing 0", RED) == 1
  assert mine(*flags, "--read_batch", results, "--batch_dir", third) == 0
  assert not loopback.bodies
  zero, *_ = written(tmp_path)
  assert zero.rationales[0].extra["rationalised"] is True
  # And a folder that may be on its way already is not written to.
  capsys.readouterr()
  assert mine(*flags, "--write_batch", third, "--samples=1") == 2
  assert "holds requests already" in of_error(capsys)


def _serve_batch(folder, results, odd, text):
  """What a provider makes of a folder's requests; their number."""
  lines = []
  for path in sorted(folder.glob("*.jsonl")):
    for line in path.read_text().splitlines():
      asked = json.loads(line)
      own = text if odd in asked["body"]["messages"][-1]["content"] else RED
      message = {"role": "assistant", "content": own}
      choice = {"index": 0, "message": message, "finish_reason": "stop"}
      body = {"model": "m-001", "choices": [choice]}
      response = {"status_code": 200, "body": body}
      lines.append({"custom_id": asked["custom_id"], "response": response})
  results.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return len(lines)


# --- input and output --------------------------------------------------------


def test_a_table_of_ones_own(mine, tmp_path, loopback, capsys):
  (tmp_path / "mine.csv").write_text("text,team\nthing a,red\nthing b,blue\n")
  flags = ["--input", tmp_path / "mine.csv", "--output_split", "mine"]
  flags += ["--field_mapping", "input=text", "label=team"]
  assert mine(*flags, "--formats=jsonl,parquet,csv") == 0
  for suffix in ("jsonl", "parquet", "csv"):
    records = written(tmp_path, f"mine.{suffix}")
    assert [r.input for r in records] == ["thing a", "thing b"]
    assert [r.label for r in records] == ["red", "blue"]
    assert records[0].rationales[0].text == "It is so."


def test_malformed_lines(mine, tmp_path, loopback, capsys):
  with (tmp_path / "mine.jsonl").open("a") as file:
    file.write('{"id": 3}\n{broken\n')
  assert mine() == 2
  assert re.search(
    r"2 of 8 lines of .*:7: .*--skip_malformed", of_error(capsys)
  )
  assert not loopback.bodies
  assert mine("--skip_malformed") == 0
  assert "2 lines of" in capsys.readouterr().err
  assert len(written(tmp_path)) == 6
  # What comes after the limit is not looked at.
  assert mine("--limit=3") == 0
  assert [r.id for r in written(tmp_path)] == ["r0", "r1", "r2"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--formats=xml"], "--formats names 'xml'; allowed: jsonl, "),
    (["--formats=jsonl,jsonl"], "--formats names 'jsonl' twice"),
    (["--formats=,"], "--formats names no format"),
    (["--output_split=../x"], "--output_split is '../x'"),
    (["--limit=0"], "limit is 0; it must be 1 or more, or None (--limit)"),
    (["--samples=0"], "samples is 0; it must be from 1 to 1024 (--samples)"),
    (["--samples=3"], "raise temperature"),
    (
      ["--temperature=3"],
      "temperature is 3.0; it must be from 0 to 2 (--temperature)",
    ),
    (["--temperature=nan"], "temperature is nan"),
    (["--max_tokens=0"], "max_tokens is 0"),
    (["--timeout_s=nan"], "timeout_s is nan"),
    (["--timeout_s=inf"], "timeout_s is inf"),
    (["--concurrency=1000000000"], "concurrency is 1000000000"),
    (["--weight=-1"], "weight is -1.0"),
    (["--extra_body=[]"], "extra_body is '[]'; it must be a JSON object"),
    (["--extra_body={"], "extra_body is '{'"),
    (["--num_exemplars=9"], "9 exemplars asked of prompt"),
    (["--num_exemplars=0"], "which has no instruction, asks for nothing"),
    (["--style=verse"], "style is 'verse'; it must be one of completion, chat"),
    (["--vote=all"], "vote is 'all'"),
    (["--parser=own"], "parser is 'own'"),
    (["--parser=official"], "no official parser for prompt 'mine'"),
    (["--prompt=nothing"], "no prompt 'nothing'; allowed: anli, "),
    (["--teachers=absent.toml"], "absent.toml: cannot be read"),
    (["--prices=absent.toml"], "cannot be read"),
    (
      ["--teacher=replay"],
      "the teacher replay is for a released dataset (--teacher, --dataset)",
    ),
    (["--teacher=rules"], "the teacher rules knows the dataset taxonli only"),
    (["--dry_run", "--show_prompt"], "exclude each other"),
    (["--batch_dir=x"], "--batch_dir is for --read_batch"),
    (["--read_batch", "absent.jsonl"], "cannot read absent.jsonl"),
    (["--split=test"], "--split is for --dataset"),
    (["--max_cost=nan"], "max_cost is nan"),
    (["--omit_fields=model"], "omit_fields names model"),
    (["--max_tokens_field=n"], "max_tokens_field is 'n'"),
  ],
)
def test_wrong_flags_in_one_line(mine, loopback, capsys, flags, message):
  assert mine(*flags) == 2
  assert message in of_error(capsys)
  assert not loopback.bodies


def test_wrong_sources_in_one_line(tmp_path, capsys):
  for flags, message in (
    (["--output_dir=x", "--model=m"], "give either --dataset NAME or --input"),
    (["--dataset=cqa", "--model=m"], "give --output_dir"),
    (["--input=x.jsonl", "--output_dir=x", "--prompt=cqa", "--model=m"], "no such file"),
    (["--dataset=cqb", "--output_dir=x", "--model=m"], "cqb"),
  ):  # fmt: skip
    assert main(["extract", *flags]) == 2
    assert message in of_error(capsys)
  write_records(tmp_path / "a.jsonl", [Record("a", "b")])
  flags = ["extract", "--input", str(tmp_path / "a.jsonl"), "--model=m"]
  assert main([*flags, "--output_dir", str(tmp_path)]) == 2
  assert "--input needs a --prompt" in of_error(capsys)


# --- how it ends -------------------------------------------------------------


@pytest.mark.parametrize(
  ("status", "message"),
  [
    (401, "--api_key_env"),
    (404, "check base_url and model (--base_url, --model)"),
  ],
)
def test_what_a_person_must_mend(mine, loopback, capsys, status, message):
  loopback.answer = lambda body, times: status
  assert mine("--concurrency=1") == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith("dss-jax extract: http://127.0.0.1:")
  assert message in error


def test_a_stop_before_it_costs_too_much(mine, tmp_path, loopback, capsys):
  prices = tmp_path / "prices.toml"
  prices.write_text('[models."m"]\nprompt = 1000.0\ncompletion = 1000.0\n')
  assert mine("--max_cost=0.5") == 2
  error = capsys.readouterr().err
  assert "needs the price of 'm'" in error
  assert "(--max_cost, --prices)" in error
  # An answer costs 0.11, one under way may cost up to about 0.28.
  flags = ["--prices", prices, "--max_cost=0.5", "--concurrency=1"]
  assert mine(*flags) == 1
  output = capsys.readouterr()
  assert (
    "max_cost is 0.5, which does not suffice" in output.err.splitlines()[-1]
  )
  asked = len(loopback.bodies)
  assert 1 <= asked < 6
  assert not (tmp_path / "out" / "train.jsonl").exists()
  assert mine("--no_ask") == 0
  statuses = [r.rationales[0].status for r in written(tmp_path)]
  assert statuses == ["ok"] * asked + ["unanswered"] * (6 - asked)
  assert mine("--prices", prices, "--max_cost=5") == 0
  assert len(loopback.bodies) == 6


def test_nobody_there(mine, tmp_path, capsys):
  flags = ["--base_url=http://127.0.0.1:9/v1", "--give_up_after_s=0.5"]
  assert mine(*flags) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert "no answer from 'm' for" in error
  assert "no connection to http://127.0.0.1:9/v1" in error
  assert not (tmp_path / "out" / "train.jsonl").exists()


def test_failures_are_reported_and_asked_again_by_flag(
  mine, tmp_path, loopback, capsys
):
  loopback.answer = lambda body, times: (
    400 if "thing 2" in body["messages"][-1]["content"] else RED
  )
  assert mine() == 3
  text, error = capsys.readouterr()
  assert error.splitlines()[-1] == (
    "dss-jax extract: 1 of 6 answers never came (1 rejected); --retry_failed asks"
    " for them again"
  )
  assert "m: 5 answered, 1 rejected;" in text
  assert "rejected (1): the provider will not answer this request" in text
  assert "HTTP 400: status 400" in text
  loopback.answer = lambda body, times: RED
  assert mine() == 3
  assert mine("--no_ask") == 3
  assert len(loopback.bodies) == 6
  assert mine("--retry_failed") == 0
  assert len(loopback.bodies) == 7
  assert report(tmp_path)["statuses"] == {"ok": 6}


def test_two_runs_on_one_ledger(mine, tmp_path, loopback, capsys):
  from dss_jax.rationales.ledger import Ledger

  with Ledger(tmp_path / "out" / "ledger.sqlite"):
    assert mine() == 2
    assert "is being written by another run (process" in of_error(capsys)
    assert mine("--dry_run") == 0


def test_folders_that_cannot_be_made(mine, tmp_path, capsys):
  (tmp_path / "file").write_text("")
  assert mine("--output_dir", tmp_path / "file" / "out") == 2
  assert "where no folder can be made: Not a directory" in of_error(capsys)


def _started(tmp_path, loopback, *flags):
  records = [Record(f"r{i}", f"thing {i}", "red") for i in range(200)]
  write_records(tmp_path / "mine.jsonl", records)
  (tmp_path / "mine.toml").write_text(PROMPT)

  def slow(body, times):
    time.sleep(0.05)
    return RED

  loopback.answer = slow
  return [
    *(sys.executable, "-m", "dss_jax.main", "extract"),
    *("--input", str(tmp_path / "mine.jsonl")),
    *("--prompt", str(tmp_path / "mine.toml")),
    *("--output_dir", str(tmp_path / "out")),
    *("--base_url", loopback.base_url, "--model", "m", *flags),
  ]


def _wait_for(loopback, count):
  deadline = time.monotonic() + 60
  while len(loopback.bodies) < count:
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
  "number",
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)],
)
def test_interrupted_and_killed_runs_continue(tmp_path, loopback, number):
  command = _started(tmp_path, loopback)
  process = subprocess.Popen(
    command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  _wait_for(loopback, 26)  # beyond the first answers, which are looked at
  process.send_signal(number)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert "requests under way; Ctrl-C again stops now" in error
  assert "Traceback" not in error
  assert error.splitlines()[-1] == (
    "dss-jax extract: interrupted; start it again to resume, or with --no_ask"
    " to write the records as they are"
  )
  asked = len(loopback.bodies)
  assert asked < 60
  process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
  _wait_for(loopback, asked + 20)
  process.kill()
  process.wait()
  done = subprocess.run(command, capture_output=True, check=True, text=True)
  assert not list((tmp_path / "out").glob(".*.tmp"))
  # Only what was under way when it was killed is asked twice.
  assert 200 <= len(loopback.bodies) <= 200 + 8
  assert report(tmp_path)["statuses"] == {"ok": 200}
  assert "answered before" in done.stdout


def test_the_key_is_nowhere(mine, tmp_path, loopback, capsys, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", CANARY)
  (rows,) = (tmp_path / "out",)
  loopback.answer = lambda body, times: f"{RED} {CANARY}"  # an echo
  assert mine("--limit=2") == 0
  assert loopback.headers[0]["authorization"] == f"Bearer {CANARY}"
  loopback.answer = lambda body, times: 401
  assert mine() == 2
  # And where it does not belong.
  monkeypatch.setenv("OPENAI_API_KEY", "another-key-altogether")
  loopback.answer = lambda body, times: RED
  assert mine("--api_key_env", CANARY) == 2
  word = CANARY.replace("-", "")
  assert mine("--api_key_env", word) == 0
  remote = ["--base_url=https://x.invalid/v1", "--top_p=0.5"]
  assert mine("--api_key_env", word, *remote) == 2
  for url in (
    f"https://u:{CANARY}@x.invalid/v1",
    f"https://x.invalid/v1?key={CANARY}",
    CANARY,
  ):
    assert mine("--base_url", url, "--top_p=0.5") == 2
  output = capsys.readouterr()
  said = output.out + output.err
  files = [path for path in rows.rglob("*") if path.is_file()]
  assert len(files) >= 5
  for secret in (CANARY, word):
    assert secret not in said
    for path in files:
      assert secret.encode() not in path.read_bytes(), path


# --- hostile answers ---------------------------------------------------------


def test_hostile_completions(mine, tmp_path, loopback, capsys):
  nasty = [
    "\x1b[2J\x1b]0;owned\x07 So the answer is red.",
    "</script><script>alert(1)</script> So the answer is red.",
    "x" * 20_000_000 + " So the answer is red.",
    "\u202eevil\u202c \ud83d So the answer is red.",
    "nul \0 So the answer is \x1b[31mred.",
    "{rationale} {answer} %s {{page}}",
  ]

  def answer(body, times):
    return nasty[int(body["messages"][-1]["content"].split()[-1])]

  loopback.answer = answer
  assert mine("--keep_completions=all", "--formats=jsonl,parquet") == 0
  output = capsys.readouterr()
  for character in "\x1b\x07\u202e\0":
    assert character not in output.out + output.err
  for suffix in ("jsonl", "parquet"):
    assert len(written(tmp_path, f"train.{suffix}")) == 6
  page = (tmp_path / "out" / "train.report.html").read_text()
  assert page.count("<script") == page.count("</script>") == 2  # data, program
  assert report(tmp_path)["statuses"]["invalid_text"] == 1
  assert mine("--no_ask") == 0


# --- what comes out can be trained on ----------------------------------------


@pytest.mark.slow
def test_a_student_trains_on_it(tmp_path, one_device):
  """As the epilog of --help tells."""
  out = tmp_path / "out"
  flags = ["--dataset=taxonli", "--taxonli_num_train=120"]
  flags += ["--taxonli_num_test=20"]
  made = ["--teacher=rules", f"--output_dir={out}"]
  assert main(["extract", *flags, *made]) == 0
  test = ["--split=test", f"--output={out / 'test.jsonl'}"]
  assert main(["data", "convert", *flags, *test]) == 0
  flags = ["models/taxonli.gin", "runs/train.gin", "data/taxonli.gin"]
  flags += ["methods/dss.gin"]
  train = [
    "train",
    *(f"--gin_file={flag}" for flag in flags),
    f"--data_dir={out}",
    "--gin.data.DataOptions.source=records",
    f"--gin.MODEL_DIR={tmp_path / 'student'}",
    "--gin.TRAIN_STEPS=2",
  ]
  assert main(train) == 0
  assert (tmp_path / "student" / "metrics.jsonl").stat().st_size


def test_completions_of_ones_own(mine, tmp_path, loopback, capsys):
  """They are read like a teacher's answers, and nothing is asked."""
  said = [RED, "It is so.\n\n**Answer:** Blue", "No.", "", RED, RED]
  lines = [
    json.dumps({"id": f"r{i}", "response": text}) for i, text in enumerate(said)
  ]
  path = tmp_path / "answers.jsonl"
  path.write_text("\n".join(lines))
  assert mine("--completions", path) == 0
  assert "5 completions, 1 without a text" in capsys.readouterr().err
  records, _ = read_records(tmp_path / "out" / "train.jsonl")
  labels = [record.rationales[0].label for record in records]
  assert labels == ["red", "blue", None, None, "red", "red"]
  assert not loopback.bodies
  assert (tmp_path / "out" / "train.report.html").exists()
  # Chosen again from the ledger, as after any run.
  assert mine("--no_ask", "--gold", "drop") == 0
  records, _ = read_records(tmp_path / "out" / "train.jsonl")
  assert records[1].rationales[0].status == "disagrees_with_gold"
  for flags, message in (
    (("--completion_field", "x"), "--completion_field is for --completions"),
    (("--completions", path, "--dry_run"), "exclude each other"),
    (("--completions", path, "--teacher", "replay"), "leave out --teacher"),
  ):
    assert mine(*flags) == 2
    assert message in capsys.readouterr().err
