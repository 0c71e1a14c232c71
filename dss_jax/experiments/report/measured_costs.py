"""What answers cost: time, memory and money, where somebody measured them.

`dss-jax infer` leaves what it measured in OUTPUT.infer.json, `dss-jax extract`
in its ledger. Nothing is estimated for what nobody measured.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError, damaged_file
from dss_jax.experiments.report.report_tables import Column, Table
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Prices

_MILLION = 1e6
_MAX_BYTES = 1 << 24

HOW_TO_MEASURE = (
  "Nobody measured them. dss-jax report with --measure=200 lets the best student"
  " of each method and size answer 200 test items anew; the teacher's stand in"
  " the ledger.sqlite of dss-jax extract, for --costs. They are set side by side"
  " here."
)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What somebody's answers cost.

  Attributes:
    name: of the student or the teacher's model.
    kind: "student" or "teacher".
    answers: number of answers that this is about.
    accuracy: share of right ones among those with a gold label; None if
      unknown.
    seconds: of a student, the whole time divided by the answers, which are
      made together; None if unknown.
    latency_s: median seconds of a request that comes alone, of a teacher from
      request to answer; None if unknown.
    latency_95_s: 95 % of these requests take no longer; None if unknown.
    memory_bytes: the most memory of the student's process; None if unknown.
    per_million: money for a million answers; None if unknown.
    device: what the student ran on; "" if unknown.
  """

  name: str
  kind: str
  answers: int
  accuracy: float | None
  seconds: float | None
  latency_s: float | None
  latency_95_s: float | None
  memory_bytes: int | None
  per_million: float | None
  device: str


def read(
  files: Iterable[str | os.PathLike[str]],
  *,
  hourly_price: float | None = None,
  prices: str | os.PathLike[str] | None = None,
) -> list[Cost]:
  """Reads what was measured.

  Args:
    files: OUTPUT.infer.json of `dss-jax infer`, and ledgers of `dss-jax
      extract`.
    hourly_price: of the machine that the students ran on.
    prices: further prices of teachers, a TOML file.

  Raises:
    UserError: a file is none of these.
  """
  table = Prices.load(prices)
  found: list[Cost] = []
  for file in files:
    path = pathlib.Path(file).expanduser()
    if not path.is_file():
      raise UserError(f"no such file: {path}", fields="costs")
    if path.suffix == ".json":
      found.append(_student(path, hourly_price))
    else:
      found += _teachers(path, table)
  return found


def _student(path: pathlib.Path, hourly_price: float | None) -> Cost:
  if path.stat().st_size > _MAX_BYTES:
    raise UserError(f"{path} has over {_MAX_BYTES} bytes", fields="costs")
  with damaged_file(path, "give an OUTPUT.infer.json of `dss-jax infer`"):
    state: Any = strict_json.loads(path.read_text(encoding="utf-8"))
    if not state["complete"]:
      raise UserError(
        f"{path} is of a run that is not complete: start it again to continue",
        fields="costs",
      )
    totals, about = dict(state["totals"]), dict(state["about"])
    student = dict(about["student"])
    answers = int(state["rows"])
    seconds = float(state.get("seconds") or math.nan)
    scored = int(totals.get("scored") or 0)
    accuracy = int(totals.get("correct") or 0) / scored if scored else None
    each = seconds / answers if answers and seconds > 0 else None
    alone = dict(state.get("request_times") or {})
    return Cost(
      name=str(student.get("source") or path.name),
      kind="student",
      answers=answers,
      accuracy=accuracy,
      seconds=each,
      latency_s=_positive(alone.get("median_s")),
      latency_95_s=_positive(alone.get("p95_s")),
      memory_bytes=int(state.get("peak_memory_bytes") or 0) or None,
      per_million=(
        None
        if each is None or hourly_price is None
        else each / 3600 * hourly_price * _MILLION
      ),
      device=str(about.get("device") or ""),
    )


def _positive(value: Any) -> float | None:
  """A file's number of seconds; None where it is none."""
  return float(value) if value is not None and float(value) > 0 else None


def _teachers(path: pathlib.Path, prices: Prices) -> list[Cost]:
  """Each model of a ledger."""
  found = []
  with Ledger(path, read_only=True) as ledger:
    charges = ledger.charges()
    times: dict[str, list[float]] = {}
    for outcome in ledger.outcomes():
      if outcome.completion is not None and outcome.seconds is not None:
        times.setdefault(outcome.model, []).append(outcome.seconds)
    for model, usage in ledger.usage().items():
      own = [charge for charge in charges if charge.model == model]
      own_times = times.get(model)
      priced = prices.price(model) is not None and own and usage.answers
      found.append(
        Cost(
          name=model,
          kind="teacher",
          answers=usage.answers,
          accuracy=None,
          seconds=None,
          latency_s=float(np.median(own_times)) if own_times else None,
          latency_95_s=(
            float(np.quantile(own_times, 0.95)) if own_times else None
          ),
          memory_bytes=None,
          per_million=(
            prices.total(own) / usage.answers * _MILLION if priced else None
          ),
          device="",
        )
      )
  return found


def table(costs: Sequence[Cost]) -> Table:
  """The measured costs as a table."""
  return Table(
    "costs",
    "What answers cost, as measured",
    [
      Column("who"),
      Column("what"),
      Column("answers", "count"),
      Column("right %", "percent"),
      Column("one request, ms (median)", "number"),
      Column("95 % within, ms", "number"),
      Column("answers a second", "number"),
      Column("memory, GB", "number"),
      Column("price of a million answers", "count"),
      Column("device"),
    ],
    [
      [
        cost.name,
        cost.kind,
        cost.answers,
        cost.accuracy,
        1000 * cost.latency_s if cost.latency_s else None,
        1000 * cost.latency_95_s if cost.latency_95_s else None,
        1 / cost.seconds if cost.seconds else None,
        cost.memory_bytes / 1e9 if cost.memory_bytes else None,
        cost.per_million,
        cost.device or None,
      ]
      for cost in costs
    ],
    [
      "One request: of a student one that comes alone, asked a second time, so"
      " that nothing is compiled, without a server's share; of a teacher from"
      " request to answer, with what waits there. Answers a second: a student"
      " answers many records together; the whole time counts, compilation"
      " included. A teacher's price counts retries and samples. Prices are in the"
      " price table's currency; a student's need the hourly price of its machine."
      " Memory is that of the student's process, an accelerator's own aside.",
    ],
  )
