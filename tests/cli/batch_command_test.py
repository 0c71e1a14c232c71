"""`--batch submit|poll|fetch|cancel` against OpenAI's interface on loopback."""

import json

import pytest
from loopback_batches import chat

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, read_records, write_records
from dss_jax.main import main
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Charge, Tokens

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
def mine(tmp_path, loopback_batches, monkeypatch):
  """`dss-jax extract` on eight records, with batches on the loopback."""
  monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
  (tmp_path / "mine.toml").write_text(PROMPT)
  records = [Record(f"r{i}", f"thing {i}", "red") for i in range(8)]
  write_records(tmp_path / "mine.jsonl", records)

  def run(*flags):
    return main(
      [
        "extract",
        *("--input", str(tmp_path / "mine.jsonl")),
        *("--prompt", str(tmp_path / "mine.toml")),
        *("--output_dir", str(tmp_path / "out")),
        *("--base_url", loopback_batches.base_url, "--model", "m"),
        *map(str, flags),
      ]
    )

  return run


def statuses(tmp_path):
  report = json.loads((tmp_path / "out" / "train.report.json").read_text())
  return report["statuses"]


def charges(tmp_path):
  path = tmp_path / "out" / "ledger.sqlite"
  with Ledger(path, read_only=True) as ledger:
    return ledger.charges()


def error_of(capsys):
  return capsys.readouterr().err.splitlines()[-1]


def test_there_and_back(mine, tmp_path, loopback_batches, capsys):
  """Bodies as a live run's, a refused setting, and a second batch for it."""
  server = loopback_batches

  def answer(body):
    if body.get("max_completion_tokens") == 256:
      error = {"message": "too large", "param": "max_completion_tokens"}
      return (
        (400, {"error": error}) if "thing 3" in str(body) else (200, chat(RED))
      )
    return 200, chat(BLUE)

  server.answer = answer
  flags = [
    *("--max_tokens_field=max_completion_tokens", "--omit_fields=temperature"),
    *("--header", "X-Team: mine", "--gold=keep"),
  ]
  assert mine(*flags, "--batch=submit") == 0
  shown = capsys.readouterr().out
  assert "batch-001/requests-000.jsonl: batch-0, validating; 0 done" in shown
  [line, *_] = map(json.loads, server.files["file-0"].splitlines())
  assert set(line["body"]) == {"model", "messages", "max_completion_tokens"}
  for headers in server.headers:
    assert headers["x-team"] == "mine"
    assert headers["authorization"] == "Bearer sk-0123456789abcdef"
  # Until it is back, every request may cost the longest answer.
  [charge] = charges(tmp_path)
  assert charge.is_batch
  assert charge.tokens.written == 8 * 256

  # Nothing is asked twice meanwhile.
  for again in ([], ["--batch=submit"]):
    assert mine(*flags, *again) == 2
    assert "batch-001 is a batch under way" in error_of(capsys)
  assert mine(*flags, "--batch=poll") == 1
  assert ", in_progress;" in capsys.readouterr().out
  assert mine(*flags, "--batch=fetch") == 1
  assert not (tmp_path / "out" / "train.jsonl").exists()
  assert ", finalizing;" in capsys.readouterr().out
  assert mine(*flags, "--batch=poll") == 0
  assert ", completed; 7 done, 1 failed of 8" in capsys.readouterr().out
  assert mine(*flags, "--batch=fetch") == 0
  error = capsys.readouterr().err
  assert "400: too large; the field is 'max_completion_tokens'" in error
  assert "results: 7 answered, 1 failed" in error
  assert statuses(tmp_path) == {"ok": 7, "unanswered": 1}
  assert charges(tmp_path) == [Charge("m", True, Tokens(700, 70))]

  # After the change, only the refused request.
  assert mine(*flags, "--max_tokens=512", "--batch=submit") == 0
  assert "batch-002/requests-000.jsonl" in capsys.readouterr().out
  assert server.batches["batch-1"]["request_counts"]["total"] == 1
  while mine(*flags, "--max_tokens=512", "--batch=poll"):
    pass
  assert mine(*flags, "--max_tokens=512", "--batch=fetch") == 0
  assert statuses(tmp_path) == {"ok": 8}
  assert len(server.batches) == 2


def test_what_is_cancelled_is_fetched_as_far_as_it_is_done(
  mine, tmp_path, loopback_batches, capsys
):
  assert mine("--batch=submit") == 0
  assert mine("--batch=cancel") == 0
  assert ", cancelled; 4 done, 0 failed of 8" in capsys.readouterr().out
  assert mine("--batch=fetch") == 0
  assert statuses(tmp_path) == {"ok": 4, "unanswered": 4}
  assert charges(tmp_path) == [Charge("m", True, Tokens(400, 40))]
  # The rest goes into another one.
  assert mine("--batch=submit") == 0
  assert loopback_batches.batches["batch-1"]["request_counts"]["total"] == 4


def test_a_batch_without_its_answer_is_not_made_twice(
  mine, loopback_batches, capsys
):
  loopback_batches.lose_created = True
  assert mine("--batch=submit") == 2
  assert "no connection to" in error_of(capsys)
  assert len(loopback_batches.batches) == 1
  assert mine("--batch=submit") == 0
  assert len(loopback_batches.batches) == 1
  assert len(loopback_batches.files) == 1
  assert "batch-0, validating" in capsys.readouterr().out


def test_a_batch_that_was_never_made_can_be_cancelled(
  mine, tmp_path, loopback_batches, monkeypatch, capsys
):
  from dss_jax.rationales.teachers import provider_batches

  def killed(self, path):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(provider_batches._Provider, "upload", killed)
    assert mine("--batch=submit") == 130
  assert mine() == 2
  assert mine("--batch=cancel") == 0
  assert not loopback_batches.batches
  assert charges(tmp_path) == []
  assert mine("--batch=submit") == 0
  assert "batch-002" in capsys.readouterr().out


def test_a_batch_that_the_provider_refused_to_make_costs_nothing(
  mine, tmp_path, loopback_batches, monkeypatch, capsys
):
  from dss_jax.rationales.teachers import provider_batches

  def refused(self, file_id, url):
    raise UserError("HTTP 429: enqueued token limit reached")

  with monkeypatch.context() as patch:
    patch.setattr(provider_batches._Provider, "create", refused)
    assert mine("--batch=submit") == 2
  # Whether it was made is known only when the provider is asked.
  [charge] = charges(tmp_path)
  assert charge.tokens.written == 8 * 256
  assert mine("--batch=cancel") == 0
  assert charges(tmp_path) == [Charge("m", True, Tokens())]
  assert mine("--batch=submit") == 0
  [charge] = charges(tmp_path)
  assert charge.tokens.written == 8 * 256


def test_a_refused_batch_costs_nothing(
  mine, tmp_path, loopback_batches, capsys
):
  loopback_batches.invalid = "line 1: the model\nis not for batches"
  assert mine("--batch=submit") == 0
  shown = capsys.readouterr().out
  assert "failed; 0 done, 0 failed of 8; line 1: the model is not for" in shown
  assert mine("--batch=fetch") == 2
  assert "holds no answer to these requests" in error_of(capsys)
  assert charges(tmp_path) == [Charge("m", True, Tokens())]


def test_max_cost_counts_the_longest_answers_at_the_price_of_batches(
  mine, tmp_path, loopback_batches, capsys
):
  prices = tmp_path / "prices.toml"
  prices.write_text(
    '[models."m"]\nprompt = 0.0\ncompletion = 1000.0\nbatch = 0.5\n'
  )
  # Eight answers of 256 tokens, of 0.0005 each.
  flags = ["--batch=submit", "--prices", prices]
  assert mine("--batch=submit", "--max_cost=1") == 2
  assert "needs the price of 'm'" in error_of(capsys)
  assert mine(*flags, "--max_cost=1.02") == 2
  assert "max_cost is 1.02, and" in error_of(capsys)
  assert not (tmp_path / "out" / "batch-001").exists()
  assert not loopback_batches.files
  assert mine(*flags, "--max_cost=1.03") == 0


def test_nothing_left(mine, loopback_batches, capsys):
  for step in ("poll", "fetch", "cancel"):
    assert mine(f"--batch={step}") == 2
    assert "--batch submit makes one" in error_of(capsys)
  assert mine("--batch=submit") == 0
  while mine("--batch=poll"):
    pass
  assert mine("--batch=fetch") == 0
  capsys.readouterr()
  assert mine("--batch=submit") == 0
  assert "nothing is left to ask" in capsys.readouterr().out
  assert mine() == 0
  # A second fetch writes the records again, and downloads nothing.
  asked = len(loopback_batches.headers)
  assert mine("--batch=fetch") == 0
  assert len(loopback_batches.headers) == asked


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("/v2", "may have no interface for batches"),
    (":9", "no connection to"),
  ],
)
def test_endpoints_without_batches(
  mine, loopback_batches, capsys, path, message
):
  url = loopback_batches.base_url.replace("/v1", path)
  if path == ":9":
    url = "http://127.0.0.1:9/v1"
  assert mine("--base_url", url, "--batch=submit") == 2
  error = error_of(capsys)
  assert message in error
  assert "(--base_url)" in error


def test_another_teachers_batch(mine, loopback_batches, capsys):
  assert mine("--batch=submit") == 0
  assert mine("--batch=poll", "--name=other") == 2
  assert (
    "was made for the teacher 'm', and these flags name 'other'"
    in error_of(capsys)
  )


def test_a_damaged_state_is_named(mine, tmp_path, loopback_batches, capsys):
  assert mine("--batch=submit") == 0
  path = tmp_path / "out" / "batch-001" / "batch.json"
  for wrong in ("{", "[]", '{"files": [{"name": "../x"}]}'):
    path.write_text(wrong)
    assert mine("--batch=poll") == 2
    assert "batch.json is damaged" in error_of(capsys)


def test_records_come_out(mine, tmp_path, loopback_batches):
  assert mine("--batch=submit", "--style=chat") == 0
  while mine("--batch=poll"):
    pass
  assert mine("--batch=fetch") == 0
  records, _ = read_records(tmp_path / "out" / "train.jsonl")
  assert [r.rationales[0].text for r in records] == ["It is so."] * 8
  assert {r.rationales[0].label for r in records} == {"red"}
