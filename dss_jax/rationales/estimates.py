"""Estimates of what a run of stage 1 would take, before it asks anything."""

from __future__ import annotations

import dataclasses
import itertools

from dss_jax.datasets.records import SeenTexts
from dss_jax.rationales.extraction_plan import ExtractionPlan
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.planned_requests import PlannedRequests
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.record_source import RecordSource
from dss_jax.rationales.teacher_requests import Tokens

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
    is_measured: whether `completion_tokens` comes from answers of the model,
      thoughts included. Exemplars say nothing of how long a model thinks.
    cost: money for the estimated tokens; None where the price is not known.
    most_cost: money with the longest answers; None likewise.
    batch_cost: `most_cost` through a batch interface; None likewise.
  """

  requests: int = 0
  answered: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0
  most_completion_tokens: int = 0
  is_measured: bool = False
  cost: float | None = None
  most_cost: float | None = None
  batch_cost: float | None = None


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
    mean = _measured_mean(ledger, model)
    result.is_measured = mean is not None
    if mean is None:
      mean = _mean_exemplar(plan)
    result.completion_tokens = min(
      round(mean * result.requests), result.most_completion_tokens
    )
    if price := prices.price(model):
      read = result.prompt_tokens
      most = Tokens(read, result.most_completion_tokens)
      result.cost = price.cost(Tokens(read, result.completion_tokens))
      result.most_cost = price.cost(most)
      result.batch_cost = price.cost(most, is_batch=True)
    found[teacher_plan.teacher.name] = result
  return found


def _measured_mean(ledger: Ledger | None, model: str) -> float | None:
  """Mean tokens of the model's answers; None if none was counted."""
  usage = ledger.usage().get(model) if ledger is not None else None
  counted = usage.answers - usage.without_usage if usage else 0
  return usage.completion_tokens / counted if usage and counted else None


def _mean_exemplar(plan: ExtractionPlan) -> float:
  """Mean tokens of what the exemplars would have a model write."""
  written = [plan.prompt.output(exemplar) for exemplar in plan.prompt.exemplars]
  if not written:
    return 100.0
  return sum(len(text.encode()) for text in written) / len(written) / 4
