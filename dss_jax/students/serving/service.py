"""A backend with its queue, limits, counters and health."""

from __future__ import annotations

from collections.abc import Callable

from dss_jax.students.serving import batching, server_metrics
from dss_jax.students.serving.batching import State
from dss_jax.students.serving.settings import ServeSettings
from dss_jax.students.serving.student_backend import ModelCard


class Service:
  """What answers requests, and whether it can.

  Attributes:
    card: what the server says about the model.
    settings: the limits.
    metrics: the counters.
    batcher: the queue.
    is_leaving: whether the server will stop soon, so that clients should turn
      to another one; requests are still answered.
  """

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
    self.is_leaving = False
    self.metrics = server_metrics.Metrics(
      card.to_dict(),
      {
        "queue_inputs": lambda: self.batcher.waiting,
        "open_requests": lambda: self.batcher.open_requests,
        "predictor_busy_seconds": lambda: self.batcher.busy_s,
        "ready": lambda: self.health()[0],
      },
    )
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
    """Whether clients should send requests, and why or why not."""
    state, busy_s = self.batcher.state, self.batcher.busy_s
    if state is not State.READY:
      return False, state.value
    if self.is_leaving:
      return False, "stopping soon"
    if busy_s > self.settings.stuck_after_s:
      return False, f"the predictor has been at one batch for {busy_s:.0f} s"
    return True, state.value

  @property
  def is_alive(self) -> bool:
    """Whether waiting may help: false if the predictor has ended or is stuck."""
    batcher = self.batcher
    return batcher.state is not State.FAILED and (
      batcher.state is State.STARTING
      or batcher.busy_s <= self.settings.stuck_after_s
    )
