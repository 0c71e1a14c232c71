"""The options of stage 1: whom to ask, how, how often, and what to keep.

Nothing heavy is imported here, since the command line makes its flags of these
classes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.rationales.teacher_requests import (
  BATCH,
  STYLES,
  Request,
  Sampling,
)
from dss_jax.rationales.teachers.endpoint_options import EndpointOptions

if TYPE_CHECKING:
  from dss_jax.rationales.prompts import Prompt
  from dss_jax.rationales.teachers import RecordTeacher, Teacher

# Each request under way is a connection; systems allow a process few more.
_MAX_CONCURRENCY = 4096


@dataclasses.dataclass(frozen=True)
class AskOptions:
  """How to ask a teacher.

  Attributes:
    concurrency: most requests under way at once.
    requests_per_minute: the provider's limit on requests, if there is one.
    tokens_per_minute: the provider's limit on tokens read and written, if there
      is one. A request counts with an estimate until its answer arrives.
    timeout_s: longest wait for one answer, to its last byte, in seconds.
    max_attempts: failures after which a request is given up. Being asked too
      often (HTTP 429) counts for a tenth; a server that is not there, while it
      is tried with one request at a time, for nothing.
    max_cost: stop before the money spent on every attempt in the ledger, with
      an estimate where no answer came or tokens were not counted, and on what
      is under way, exceeds this; in the currency of the price table.
    retry_failed: ask again what earlier runs gave up or saw rejected.
    give_up_after_s: stop when every attempt has failed for this long, in
      seconds.
    backoff_s: wait after a first failure, in seconds; it doubles with each
      further one.
    max_backoff_s: longest such wait, in seconds.
    max_retry_after_s: longest wait that a server may ask for, in seconds.
    stop_after_rejections: stop when this many requests were rejected and none
      was answered, since something is then wrong with all of them.
    seed: seed of the random part of waits.
  """

  concurrency: int = 8
  requests_per_minute: float | None = None
  tokens_per_minute: float | None = None
  timeout_s: float = 120.0
  max_attempts: int = 8
  max_cost: float | None = None
  retry_failed: bool = False
  give_up_after_s: float = 1800.0
  backoff_s: float = 1.0
  max_backoff_s: float = 60.0
  max_retry_after_s: float = 300.0
  stop_after_rejections: int = 50
  seed: int | None = None

  def __post_init__(self):
    checks.in_range(
      "AskOptions.concurrency", self.concurrency, 1, _MAX_CONCURRENCY
    )
    for name in ("max_attempts", "stop_after_rejections"):
      checks.in_range(f"AskOptions.{name}", getattr(self, name), 1)
    for name in (
      "requests_per_minute",
      "tokens_per_minute",
      "timeout_s",
      "give_up_after_s",
      "backoff_s",
    ):
      checks.positive(f"AskOptions.{name}", getattr(self, name), or_none=True)
    checks.in_range("AskOptions.max_cost", self.max_cost, 0, or_none=True)


_CHOICES = {
  "vote": ("none", "majority"),
  "keep": ("all", "majority", "one"),
  "gold": ("keep", "drop", "rationalise"),
  "keep_completions": ("unparsed", "all", "none"),
  "earlier": ("drop", "keep"),
}


@dataclasses.dataclass(frozen=True)
class ChooseOptions:
  """Which answers become rationales of a record, and with which weights.

  Attributes:
    vote: "majority" multiplies a rationale's weight by its label's share of the
      votes, which is 0 for answers without a vote; "none" leaves the teacher's
      weight.
    keep: which rationales stay: of "all" answers, usable or not; of those for
      the "majority"'s label; or the "one" of the greatest weight. If no answer
      is usable, all are kept, for their statuses.
    gold: what becomes of rationales that argue against a record's gold label:
      "keep" them, "drop" them, or drop them and "rationalise": ask the teacher
      for a rationale of the given label where no other is left.
    keep_completions: the raw texts kept in the records: those of "unparsed"
      answers (whose status is not "ok"), of "all", or of "none". The ledger
      has them all.
    earlier: whether to "keep" the rationales that a record came with, in front,
      or to "drop" them.
  """

  vote: str = "majority"
  keep: str = "all"
  gold: str = "keep"
  keep_completions: str = "unparsed"
  earlier: str = "drop"

  def __post_init__(self):
    for name, allowed in _CHOICES.items():
      checks.one_of(f"ChooseOptions.{name}", getattr(self, name), allowed)


class Connectable(Protocol):
  """A teacher that is sent prompts, before a connection is needed.

  Attributes:
    name: the `source` of its rationales.
    model: the `model` of requests meant for it.
    weight: weight of its rationales relative to other teachers'.
  """

  @property
  def name(self) -> str: ...

  @property
  def model(self) -> str: ...

  @property
  def weight(self) -> float: ...

  def connect(self) -> Teacher:
    """The teacher, ready to be asked.

    Raises:
      UserError: what it needs (a key, a package) is missing.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Endpoint(EndpointOptions):
  """An OpenAI-compatible endpoint: a teacher that is sent prompts."""

  def connect(self) -> Teacher:
    """See `Connectable.connect`."""
    from dss_jax.rationales.teachers.openai_endpoint import OpenAIEndpoint

    return OpenAIEndpoint(self)


@dataclasses.dataclass(frozen=True)
class TeacherPlan:
  """One teacher and what it is asked.

  Attributes:
    teacher: who answers. A teacher that knows records is sent no prompt, and
      the other fields do not matter.
    style: form of the prompt: "chat" (exemplars as turns) or "completion" (one
      text).
    samples: answers wanted per record; they vote.
    sampling: how answers are drawn.
    ask: concurrency, limits and patience.
  """

  teacher: Connectable | RecordTeacher
  style: str = "chat"
  samples: int = 1
  sampling: Sampling = dataclasses.field(default_factory=Sampling)
  ask: AskOptions = dataclasses.field(default_factory=AskOptions)

  def __post_init__(self):
    from dss_jax.datasets.records.record import MAX_RATIONALES, MAX_WEIGHT

    checks.one_of("TeacherPlan.style", self.style, STYLES)
    checks.in_range("TeacherPlan.samples", self.samples, 1, MAX_RATIONALES)
    checks.in_range("Endpoint.weight", self.teacher.weight, 0, MAX_WEIGHT)
    if self.teacher.name == BATCH:
      raise UserError(
        f"a teacher's name is {BATCH!r}, under which the ledger keeps what goes"
        " through a batch interface, at its price; name it otherwise",
        fields="Endpoint.name",
      )
    if self.samples > 1 and self.sampling.temperature == 0:
      raise UserError(
        f"samples is {self.samples} and temperature is 0, which would draw the"
        " same answer each time; raise temperature, or lower samples to 1",
        fields=("TeacherPlan.samples", "Sampling.temperature"),
      )

  @property
  def knows_records(self) -> bool:
    """Whether the teacher answers without a prompt."""
    return not hasattr(self.teacher, "connect")

  def body(self, request: Request) -> dict[str, Any]:
    """The JSON body of a request, exactly as the teacher is sent it."""
    body_of = getattr(self.teacher, "body", Request.body)
    return body_of(request)


@dataclasses.dataclass(frozen=True)
class ExtractionPlan:
  """Everything that decides which records come out of stage 1.

  Attributes:
    prompt: exemplars and formats.
    teachers: whom to ask; each is asked about every record.
    parser: how completions are read: "tolerant", or "official" for released
      completions, exactly as the paper's code reads them.
    rationale_from: what a reasoning model's rationale is: its "answer", the
      "reasoning" before it (of the provider's field, or in tags), or "both".
    retry_unparsed: how many further samples replace an answer that cannot be
      read.
    retry_temperature: lowest temperature of those samples, since at 0 the same
      answer would come again.
    choose: votes, gold labels, what is kept.
    check_first: number of answers of each teacher that are looked at before the
      rest is asked.
    min_yield: share of these whose label can be used; with less, the run stops
      and shows what came. 0 asks on whatever comes.
  """

  prompt: Prompt
  teachers: tuple[TeacherPlan, ...]
  parser: str = "tolerant"
  rationale_from: str = "answer"
  retry_unparsed: int = 0
  retry_temperature: float = 0.7
  choose: ChooseOptions = dataclasses.field(default_factory=ChooseOptions)
  check_first: int = 20
  min_yield: float = 0.5

  @property
  def prompted_teachers(self) -> tuple[TeacherPlan, ...]:
    """The teachers that are sent prompts, since they do not know records."""
    return tuple(plan for plan in self.teachers if not plan.knows_records)

  def __post_init__(self):
    from dss_jax.rationales.completion_parsing import check_parser

    if not self.teachers:
      raise UserError(
        "no teacher is named", fields=("model", "teacher", "teachers")
      )
    names = [plan.teacher.name for plan in self.teachers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
      raise UserError(
        f"two teachers are called {twice[0]!r}; their rationales are"
        " distinguished by that name, so give each its own",
        fields="Endpoint.name",
      )
    asked = [
      (plan.teacher.model, plan.style, plan.sampling)
      for plan in self.prompted_teachers
    ]
    if any(asked.count(same) > 1 for same in asked):
      raise UserError(
        "two teachers have the same model, style and sampling, so their answers"
        " would be the same; give one of them another seed",
        fields="teachers",
      )
    check_parser(self.prompt, self.parser, self.rationale_from)
    checks.in_range(
      "ExtractionPlan.retry_unparsed", self.retry_unparsed, 0, 100
    )
    checks.in_range("ExtractionPlan.check_first", self.check_first, 0)
    checks.in_range("ExtractionPlan.min_yield", self.min_yield, 0, 1)
    checks.positive(
      "ExtractionPlan.retry_temperature", self.retry_temperature, most=2
    )
