"""Endpoints like a reasoning model, one that writes markdown, one that counts
nothing: yields, ledger and cost add up to what the server saw."""

import collections
import json
from typing import Any

import pytest

from dss_jax.datasets.records import Record
from dss_jax.main import main
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Tokens
from dss_jax.rationales.teachers.rules import TaxonliRules

RECORDS = 60
PRICES = """
[models.thinker]
prompt = 2.0
completion = 8.0
cached = 0.5
[models.marker]
prompt = 1.0
completion = 4.0
[models.silent]
prompt = 0.5
completion = 1.5
"""
TEACHERS = """
[[teacher]]
model = "thinker"
max_tokens_field = "max_completion_tokens"
omit_fields = ["temperature"]
[[teacher]]
model = "marker"
[[teacher]]
model = "silent"
"""


class Models:
  """Three models; each keeps what it would bill, in tokens."""

  def __init__(self):
    self.billed = collections.defaultdict(Tokens)
    self.asked = collections.Counter()
    self._rules = TaxonliRules()

  def __call__(self, body, times):
    model, question = body["model"], body["messages"][-1]["content"]
    self.asked[model] += 1
    premise, hypothesis = (
      line.partition(": ")[2] for line in question.splitlines()[:2]
    )
    found = self._rules.answer(Record("x", f"{premise}</s>{hypothesis}"))
    assert found is not None, question
    facts, _, label = found.text.strip().partition("\nAnswer: ")
    return getattr(self, f"_{model}")(body, facts, label)

  def _thinker(self, body, facts, label):
    """Thinks 20 to 140 tokens, which only the total counts."""
    assert "temperature" not in body
    thought = 20 + 30 * (len(facts) % 5)
    limit = body["max_completion_tokens"]
    message: dict[str, Any] = {
      "role": "assistant",
      "reasoning_content": f"Let me see: {facts}",
    }
    if thought + 20 > limit:
      message["content"] = None
      return self._body(
        body, message, "length", Tokens(300, limit, 200), thought
      )
    message["content"] = f"{facts}\nAnswer: {label}"
    used = Tokens(300, thought + 20, 200)
    return self._body(body, message, "stop", used, thought)

  def _marker(self, body, facts, label):
    """Heads, bold type, a list; every tenth answer leaves the label out."""
    text = f"## Reasoning\n\n- {facts}\n\n**Answer:** {label}"
    if self.asked["marker"] % 10 == 0:
      text = f"## Reasoning\n\n- {facts}"
    message = {"role": "assistant", "content": text}
    return self._body(body, message, "stop", Tokens(250, 30))

  def _silent(self, body, facts, label):
    text = f"{facts}\nAnswer: {label}"
    message = {"role": "assistant", "content": text}
    return self._body(body, message, "stop", None)

  def _body(self, body, message, reason, used, thought=0):
    answer: dict[str, Any] = {"model": f"{body['model']}-001"}
    answer["choices"] = [{"message": message, "finish_reason": reason}]
    if used is not None:
      before = self.billed[body["model"]]
      self.billed[body["model"]] = Tokens(
        *(before.read + used.read, before.written + used.written),
        before.cached + used.cached,
      )
      shown = max(used.written - thought, 0)
      answer["usage"] = {
        "prompt_tokens": used.read,
        "completion_tokens": shown,
        "total_tokens": used.all,
        "prompt_tokens_details": {"cached_tokens": used.cached},
      }
    return answer


@pytest.mark.slow
def test_yields_ledger_and_cost_reconcile(tmp_path, loopback, capsys):
  models = loopback.answer = Models()
  (tmp_path / "prices.toml").write_text(PRICES)
  (tmp_path / "teachers.toml").write_text(TEACHERS)

  def run(*flags):
    status = main(
      [
        *("extract", "--dataset=taxonli", f"--taxonli_num_train={RECORDS}"),
        *("--output_dir", str(tmp_path), "--base_url", loopback.base_url),
        *("--teachers", str(tmp_path / "teachers.toml")),
        *("--prices", str(tmp_path / "prices.toml"), "--json", *flags),
      ]
    )
    out, err = capsys.readouterr()
    assert out, err
    return status, json.loads(out)

  # A third of the thoughts or so does not fit.
  status, found = run("--max_tokens=100", "--max_cost=100")
  assert status == 0
  by_name = {t["name"]: t for t in found["report"]["teachers"]}
  cut = by_name["thinker"]["statuses"]["truncated"]
  assert 0 < cut < RECORDS / 2
  assert by_name["thinker"]["statuses"] == {
    "ok": RECORDS - cut,
    "truncated": cut,
  }
  assert by_name["marker"]["usable"]["count"] == RECORDS * 9 // 10
  assert by_name["silent"]["statuses"] == {"ok": RECORDS}
  assert models.asked == dict.fromkeys(("thinker", "marker", "silent"), RECORDS)

  # A larger limit asks for those alone that were cut off.
  status, found = run("--max_tokens=400", "--max_cost=100")
  assert status == 0
  assert models.asked["thinker"] == RECORDS + cut
  assert (models.asked["marker"], models.asked["silent"]) == (RECORDS, RECORDS)
  by_name = {t["name"]: t for t in found["report"]["teachers"]}
  assert by_name["thinker"]["statuses"] == {"ok": RECORDS}

  with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
    charges = {charge.model: charge.tokens for charge in ledger.charges()}
    outcomes = list(ledger.outcomes())
    attempts = list(ledger.attempts())
  # What was counted is charged to the token, thoughts included.
  assert charges["thinker"] == models.billed["thinker"]
  assert charges["marker"] == models.billed["marker"]
  # What was not counted is estimated, four bytes to a token.
  silent = [o.completion for o in outcomes if o.model == "silent"]
  written = sum(-(-len(each.text.encode()) // 4) for each in silent if each)
  assert charges["silent"].written == written
  assert charges["silent"].read > 100 * RECORDS
  cost = sum(
    (2.0, 1.0, 0.5)[i] * (charges[m].read - charges[m].cached)
    + 0.5 * charges[m].cached
    + (8.0, 4.0, 1.5)[i] * charges[m].written
    for i, m in enumerate(("thinker", "marker", "silent"))
  )
  summary = found["asked"]["silent"]["first"]
  assert summary["ledger_cost"] == pytest.approx(cost / 1e6)
  assert len(attempts) == 3 * RECORDS + cut
  thoughts = [
    o.completion.reasoning
    for o in outcomes
    if o.model == "thinker"
    if o.completion
  ]
  assert len(thoughts) == RECORDS + cut
  assert all(text and text.startswith("Let me see: ") for text in thoughts)
