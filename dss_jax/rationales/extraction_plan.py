"""What a run of stage 1 is to do: whom to ask, how often, and what to keep."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import MAX_RATIONALES
from dss_jax.datasets.records.record import MAX_WEIGHT
from dss_jax.rationales.asking.request_loop import AskOptions
from dss_jax.rationales.choosing import ChooseOptions
from dss_jax.rationales.parsing import check_parser
from dss_jax.rationales.prompts import STYLES, Prompt
from dss_jax.rationales.requests import Sampling
from dss_jax.rationales.teachers import RecordTeacher, Teacher


class Reachable(Protocol):
  """A teacher that is asked in words, before a connection is needed.

  Attributes:
    name: the `source` of its rationales.
    model: the `model` of requests meant for it.
    weight: weight of its rationales beside other teachers'.
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
class Endpoint:
  """Where an OpenAI-compatible endpoint is; see `teachers.openai_endpoint`."""

  name: str
  model: str
  weight: float = 1.0
  base_url: str | None = None
  api_key_env: str = "OPENAI_API_KEY"
  api_version: str | None = None
  timeout_s: float = 120.0
  max_tokens_field: str = "max_tokens"
  omit_fields: tuple[str, ...] = ()

  def connect(self) -> Teacher:
    """See `Reachable.connect`."""
    from dss_jax.rationales.teachers.openai_endpoint import OpenAIEndpoint

    return OpenAIEndpoint(
      self.name,
      self.model,
      self.base_url,
      api_key_env=self.api_key_env,
      weight=self.weight,
      timeout_s=self.timeout_s,
      api_version=self.api_version,
      max_tokens_field=self.max_tokens_field,
      omit_fields=self.omit_fields,
    )


@dataclasses.dataclass(frozen=True)
class TeacherPlan:
  """One teacher and what it is asked.

  Attributes:
    teacher: who answers; one that knows records is not asked in words, and
      nothing below matters.
    style: "completion" (one text to go on from) or "chat" (turns).
    samples: answers wanted per record.
    sampling: how they are drawn.
    ask: concurrency, limits and patience.
  """

  teacher: Reachable | RecordTeacher
  style: str = "chat"
  samples: int = 1
  sampling: Sampling = dataclasses.field(default_factory=Sampling)
  ask: AskOptions = dataclasses.field(default_factory=AskOptions)

  def __post_init__(self):
    if self.style not in STYLES:
      raise UserError(
        f"style is {self.style!r}; allowed: {', '.join(STYLES)} (--style)"
      )
    if not 1 <= self.samples <= MAX_RATIONALES:
      raise UserError(
        f"--samples is {self.samples}; allowed: 1 to {MAX_RATIONALES}, which a"
        " record can hold"
      )
    if not 0 <= self.teacher.weight <= MAX_WEIGHT:
      raise UserError(
        f"--weight is {self.teacher.weight}; allowed: finite numbers from 0"
      )
    if self.samples > 1 and self.sampling.temperature == 0:
      raise UserError(
        f"{self.samples} samples at temperature 0 would be the same answer"
        f" {self.samples} times: raise --temperature, or lower --samples to 1"
      )

  @property
  def knows_records(self) -> bool:
    """Whether the teacher answers without a prompt."""
    return not hasattr(self.teacher, "connect")


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything that decides which records come out.

  Attributes:
    prompt: exemplars and formats.
    teachers: whom to ask; each is asked about every record.
    parser: "tolerant", or "official" for the released completions.
    retry_unparsed: how many further samples replace an answer that cannot be
      read.
    retry_temperature: lowest temperature of those, since at 0 the same answer
      would come again.
    choose: votes, gold labels, what is kept.
  """

  prompt: Prompt
  teachers: tuple[TeacherPlan, ...]
  parser: str = "tolerant"
  retry_unparsed: int = 0
  retry_temperature: float = 0.7
  choose: ChooseOptions = dataclasses.field(default_factory=ChooseOptions)

  def __post_init__(self):
    if not self.teachers:
      raise UserError("no teacher is named (--model, --teacher or --teachers)")
    names = [plan.teacher.name for plan in self.teachers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
      raise UserError(
        f"two teachers are called {twice[0]!r}; rationales are told apart by"
        " that name, so give each its own"
      )
    asked = [
      (plan.teacher.model, plan.style, plan.sampling)
      for plan in self.teachers
      if not plan.knows_records
    ]
    if any(asked.count(same) > 1 for same in asked):
      raise UserError(
        "two teachers have the same model, style and sampling: their answers"
        " would be the same ones twice; change one's seed, say (--teachers)"
      )
    check_parser(self.prompt, self.parser)
    if not 0 <= self.retry_unparsed <= 100:
      raise UserError(
        f"retry_unparsed is {self.retry_unparsed}; allowed: 0 to 100"
        " (--retry_unparsed)"
      )
    if not 0 < self.retry_temperature <= 2:
      raise UserError(
        f"retry_temperature is {self.retry_temperature}; allowed: above 0, to 2"
        " (--retry_temperature)"
      )
