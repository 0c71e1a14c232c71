"""Costs are those that infer and the ledger have measured."""

import dataclasses
import json

import jax
import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import FieldMapping
from dss_jax.experiments.report import measured_costs
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  Completion,
  Outcome,
  Tokens,
)
from dss_jax.students.bulk import bulk_inference
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.predictor import Predictor


def _infer(folder, student, texts, name="out.jsonl", timed=0):
  """A real run of `dss-jax infer` over texts, half of them with labels."""
  source = folder / "in.jsonl"
  source.write_text(
    "".join(
      json.dumps({"input": text, "label": "neutral"}) + "\n" for text in texts
    )
  )
  params = jax.device_put(student.params, jax.devices()[0])
  bulk_inference.infer(
    Predictor(dataclasses.replace(student, params=params), PredictOptions()),
    bulk_inference.Source(
      str(source),
      ".jsonl",
      FieldMapping(),
    ),
    bulk_inference.Target(str(folder / name), time_requests=timed),
  )
  return folder / f"{name}.infer.json"


@pytest.mark.slow
def test_a_student_costs_what_infer_measured(tmp_path, dss_student, texts):
  path = _infer(tmp_path, dss_student, texts)
  state = json.loads(path.read_text())
  assert state["seconds"] > 0
  assert state["peak_memory_bytes"] > 50e6
  [cost] = measured_costs.read([path], hourly_price=3.6)
  assert (cost.kind, cost.answers) == ("student", len(texts))
  assert cost.seconds == pytest.approx(state["seconds"] / len(texts))
  # 3.6 an hour is a thousandth a second.
  assert cost.seconds is not None
  assert cost.per_million == pytest.approx(1e6 * cost.seconds * 0.001)
  answers = [
    json.loads(line)
    for line in (tmp_path / "out.jsonl").read_text().splitlines()
  ]
  assert cost.accuracy == sum(a["correct"] for a in answers) / len(texts)
  [row] = measured_costs.table([cost]).rows
  assert row[6] == pytest.approx(1 / cost.seconds)
  assert (cost.latency_s, row[4], row[5]) == (None, None, None)
  assert measured_costs.read([path])[0].per_million is None
  # Written by a version that did not measure.
  del state["seconds"], state["peak_memory_bytes"]
  path.write_text(json.dumps(state))
  [cost] = measured_costs.read([path], hourly_price=1.0)
  assert (cost.seconds, cost.memory_bytes, cost.per_million) == (None,) * 3
  path.write_text(json.dumps(state | {"complete": False}))
  with pytest.raises(UserError, match="not complete"):
    measured_costs.read([path])


@pytest.mark.slow
def test_requests_that_come_alone_are_timed_once(tmp_path, dss_student, texts):
  path = _infer(tmp_path, dss_student, texts)
  answers = (tmp_path / "out.jsonl").read_bytes()
  # Also of answers that are all there; the same question is not asked again.
  _infer(tmp_path, dss_student, texts, timed=3)
  before = path.read_bytes()
  _infer(tmp_path, dss_student, texts, timed=3)
  assert path.read_bytes() == before
  found = json.loads(before)["request_times"]
  assert (found["asked"], found["requests"]) == (3, 3)
  assert 0 < found["median_s"] <= found["p95_s"] <= found["max_s"]
  [cost] = measured_costs.read([path])
  assert cost.latency_s == found["median_s"]
  assert (tmp_path / "out.jsonl").read_bytes() == answers
  assert not list(tmp_path.glob("*.partial"))
  [row] = measured_costs.table([cost]).rows
  assert row[4:6] == [1000 * found["median_s"], 1000 * found["p95_s"]]
  # A message of damage, not a traceback.
  text = path.read_text()
  damaged = json.loads(text)
  damaged["request_times"]["median_s"] = "soon"
  path.write_text(json.dumps(damaged))
  with pytest.raises(UserError, match="damaged"):
    measured_costs.read([path])


def test_a_teacher_costs_what_its_ledger_says(tmp_path):
  with Ledger(tmp_path / "ledger.sqlite") as ledger:
    for i, seconds in enumerate((1.0, 2.0, 9.0)):
      tokens = Tokens(1000, 500)
      attempt = ledger.start_attempt(f"k{i}", "big", "big-1", tokens)
      ledger.end_attempt(attempt, ANSWERED, tokens=tokens)
      ledger.add_outcome(
        Outcome(
          f"k{i}",
          ANSWERED,
          "big",
          "big-1",
          Completion("so", prompt_tokens=1000, completion_tokens=500),
          seconds=seconds,
        )
      )
    # One that failed is paid for as well.
    lost = ledger.start_attempt("k0", "big", "big-1", Tokens(1000, 0))
    ledger.end_attempt(lost, "timeout")
  prices = tmp_path / "prices.toml"
  prices.write_text('[models."big-1"]\nprompt = 2.0\ncompletion = 4.0\n')
  [cost] = measured_costs.read([tmp_path / "ledger.sqlite"], prices=prices)
  assert (cost.name, cost.kind, cost.answers) == ("big-1", "teacher", 3)
  assert (cost.seconds, cost.latency_s) == (None, 2.0)
  assert cost.latency_95_s == pytest.approx(2.0 + 0.9 * 7.0)
  # 4,000 tokens read at 2 and 1,500 written at 4 a million, for 3 answers.
  assert cost.per_million == pytest.approx((8e-3 + 6e-3) / 3 * 1e6)
  [cost] = measured_costs.read([tmp_path / "ledger.sqlite"])
  assert cost.per_million is None


def test_other_files_are_refused(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    measured_costs.read([tmp_path / "none.json"])
  (tmp_path / "x.json").write_text("{}")
  with pytest.raises(UserError, match="damaged"):
    measured_costs.read([tmp_path / "x.json"])
  (tmp_path / "x.sqlite").write_text("x" * 5000)
  with pytest.raises(UserError):
    measured_costs.read([tmp_path / "x.sqlite"])
