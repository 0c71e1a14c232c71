"""A model as the server sees it: what it offers, whether it works."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dss_jax.base.errors import one_line
from dss_jax.students.serving import batching
from dss_jax.students.serving.request_bodies import Refused
from dss_jax.students.serving.server_metrics import Metrics
from dss_jax.students.serving.settings import ServeSettings

OUTPUTS = ("label", "rationale")


class Prediction(Protocol):
  """What is known of an input; see `inference.answers.Prediction`."""

  @property
  def label(self) -> str | None: ...
  @property
  def label_score(self) -> float | None: ...
  @property
  def label_scores(self) -> Mapping[str, float] | None: ...
  @property
  def rationale(self) -> str | None: ...
  @property
  def rationale_score(self) -> float | None: ...
  @property
  def truncated(self) -> bool: ...
  @property
  def error(self) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """What is told of a model.

  Attributes:
    name: a few words.
    outputs: what it can be asked for, of OUTPUTS.
    labels: all there are; None for free text.
    facts: further JSON values, such as the step and the dataset.
    example: an input to try.
  """

  name: str
  outputs: tuple[str, ...] = ("label",)
  labels: tuple[str, ...] | None = None
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  example: str = ""

  def to_dict(self) -> dict[str, Any]:
    return {"name": self.name, **self.facts}


class Service:
  """A backend with its queue, limits and counters."""

  def __init__(
    self,
    backend: batching.Backend,
    card: ModelCard,
    settings: ServeSettings,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_death: Callable[[BaseException], None] = lambda error: None,
  ):
    self.card = card
    self.settings = settings
    self.metrics = Metrics(card.to_dict(), lambda: self.batcher)
    self.batcher = batching.Batcher(
      backend,
      max_batch=settings.max_batch,
      max_wait_s=settings.max_wait_ms / 1e3,
      max_queue=settings.max_queue,
      observer=self.metrics,
      on_ready=on_ready,
      on_death=on_death,
    )

  def health(self) -> tuple[bool, str]:
    """Whether requests are accepted, and how things are."""
    state, busy_s = self.batcher.state, self.batcher.busy_s
    stuck = busy_s > self.settings.stuck_after_s
    if state is batching.State.READY and stuck:
      return False, f"the predictor has been at one batch for {busy_s:.0f} s"
    return state is batching.State.READY, state.value

  @property
  def is_alive(self) -> bool:
    """Whether waiting may help: false once the predictor is gone or stuck."""
    batcher = self.batcher
    return batcher.state is not batching.State.FAILED and (
      batcher.state is batching.State.STARTING
      or batcher.busy_s <= self.settings.stuck_after_s
    )

  def submit(
    self,
    inputs: Sequence[str],
    outputs: Sequence[str],
    timeout_s: float,
    name: str = "",
  ) -> batching.Job:
    """See `Batcher.submit`; the order of `outputs` does not matter."""
    wanted = tuple(name for name in OUTPUTS if name in outputs)
    return self.batcher.submit(inputs, wanted, timeout_s, name)

  def answer(
    self, job: batching.Job, predictions: Sequence[Prediction], *, scores: bool
  ) -> bytes:
    """The body of the answer, JSON in UTF-8.

    Raises:
      Refused: the predictor cannot be asked one of the inputs.
    """
    for i, prediction in enumerate(predictions):
      if prediction.error:
        raise Refused(422, f"inputs[{i}]: {one_line(prediction.error)}")
    started = job.arrived if job.started is None else job.started
    self.metrics.answered(
      started - job.arrived, sum(bool(p.truncated) for p in predictions)
    )
    answer = {
      "predictions": [
        _shown(prediction, job.outputs, scores) for prediction in predictions
      ],
      "model": self.card.to_dict(),
    }
    text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
    # A byte that was decoded alone is no character.
    return text.encode("utf-8", "replace")


def _shown(
  prediction: Prediction, outputs: Sequence[str], scores: bool
) -> dict[str, Any]:
  shown: dict[str, Any] = {}
  if "label" in outputs:
    shown["label"] = prediction.label
    if scores:
      shown["label_score"] = _finite(prediction.label_score)
      by_label = prediction.label_scores
      shown["label_scores"] = by_label and {
        label: _finite(score) for label, score in by_label.items()
      }
  if "rationale" in outputs:
    shown["rationale"] = prediction.rationale
    if scores:
      shown["rationale_score"] = _finite(prediction.rationale_score)
  shown["truncated"] = bool(prediction.truncated)
  return shown


def _finite(score: float | None) -> float | None:
  """JSON knows no infinity: what is impossible has no score."""
  return None if score is None or not math.isfinite(score) else float(score)
