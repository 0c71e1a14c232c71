"""Estimates of what a run of stage 1 would take, before it asks anything."""

from __future__ import annotations

import dataclasses
import itertools

from dss_jax.datasets.records import SeenTexts
from dss_jax.rationales.extraction import RecordSource
from dss_jax.rationales.extraction_plan import ExtractionPlan
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.planned_requests import PlannedRequests
from dss_jax.rationales.prices import Prices

# Requests looked up in the ledger together.
_CHUNK = 500


@dataclasses.dataclass
class Estimate:
  """What asking a teacher would take.

  Attributes:
    requests: requests without an answer yet.
    answered: requests with an answer.
    prompt_tokens: estimate of the tokens read, at four bytes a token.
    completion_tokens: estimate of the tokens written, by the mean of the
      model's answers in the ledger, or else by the prompt's exemplars.
    most_completion_tokens: tokens written if every answer is as long as it may
      be.
    cost: money for the estimated tokens; None where the price is not known.
    most_cost: money with the longest answers; None likewise.
  """

  requests: int = 0
  answered: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0
  most_completion_tokens: int = 0
  cost: float | None = None
  most_cost: float | None = None


def estimate(
  source: RecordSource,
  plan: ExtractionPlan,
  ledger: Ledger | None,
  prices: Prices,
) -> dict[str, Estimate]:
  """Requests, tokens and cost of a run, by teacher; asks nothing.

  Retries and rationalisations cannot be foreseen and are left out.
  """
  found = {}
  for teacher_plan in plan.prompted_teachers:
    planned = PlannedRequests(plan, teacher_plan, ledger)
    model = teacher_plan.teacher.model
    result = Estimate()
    seen = SeenTexts()
    requests = planned.first(source.read())
    while group := list(itertools.islice(requests, _CHUNK)):
      keys = [request.key for request in group]
      settled = ledger.settled(keys) if ledger is not None else set()
      for request in group:
        if request.key in settled:
          result.answered += 1
        elif seen.add(request.key) is None:
          most = request.estimated_tokens()
          result.requests += 1
          result.prompt_tokens += most.read
          result.most_completion_tokens += most.written
    mean = _mean_completion(plan, ledger, model)
    result.completion_tokens = min(
      round(mean * result.requests), result.most_completion_tokens
    )
    result.cost = prices.cost(
      model, result.prompt_tokens, result.completion_tokens
    )
    result.most_cost = prices.cost(
      model, result.prompt_tokens, result.most_completion_tokens
    )
    found[teacher_plan.teacher.name] = result
  return found


def _mean_completion(
  plan: ExtractionPlan, ledger: Ledger | None, model: str
) -> float:
  """Mean tokens of an answer, by the ledger or else by the exemplars."""
  if ledger is not None:
    usage = ledger.usage().get(model)
    counted = usage.answers - usage.without_usage if usage else 0
    if usage and counted:
      return usage.completion_tokens / counted
  written = [plan.prompt.output(exemplar) for exemplar in plan.prompt.exemplars]
  if not written:
    return 100.0
  return sum(len(text.encode()) for text in written) / len(written) / 4
