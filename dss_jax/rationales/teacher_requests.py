"""Requests to teachers, their completions, and how each of them ends.

A request has a key, under which it is asked only once.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dss_jax.base import checks

# Forms of a prompt: one text to continue, or a chat with exemplars as turns.
STYLES = ("completion", "chat")

# Role ("system", "user" or "assistant") and text.
Message = tuple[str, str]

# Fields of a body without which there is no request; all others are settings.
CONTENT_FIELDS = frozenset({"model", "messages", "prompt"})
# What endpoints call the bound on an answer's length.
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")


@dataclasses.dataclass(frozen=True)
class Tokens:
  """The tokens of one or of many requests, for their price.

  Attributes:
    read: tokens read, those from a cache included.
    written: tokens written, thinking included.
    cached: those of the tokens read that came from a cache.
  """

  read: int = 0
  written: int = 0
  cached: int = 0

  @property
  def all(self) -> int:
    """Tokens read and written."""
    return self.read + self.written


NO_TOKENS = Tokens()


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a teacher draws its answers.

  Attributes:
    temperature: 0 takes the likeliest token each time; up to 2.
    top_p: nucleus sampling, 0 to 1; 1 turns it off.
    max_tokens: longest answer, in the teacher's tokens.
    stop: texts that end an answer and are no part of it.
    seed: seed of the first sample, for endpoints that know seeds; sample i has
      seed + i. None sends no seed.
    extra: further fields of the request body, such as `top_k` or
      `reasoning_effort`.
  """

  temperature: float = 0.0
  top_p: float = 1.0
  max_tokens: int = 256
  stop: tuple[str, ...] = ()
  seed: int | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

  def __post_init__(self):
    checks.in_range("Sampling.temperature", self.temperature, 0, 2)
    checks.in_range("Sampling.top_p", self.top_p, 0, 1)
    checks.in_range("Sampling.max_tokens", self.max_tokens, 1)


@dataclasses.dataclass(frozen=True)
class Request:
  """One completion that is wanted.

  Attributes:
    model: the model's name, as the endpoint knows it.
    prompt: a text to continue (`/v1/completions`), or the turns of a chat
      (`/v1/chat/completions`).
    sampling: how to draw the answer.
    sample: number of the draw among those for the same prompt, from 0.
    response_format: the field of that name, where a chat is to answer in JSON.
  """

  model: str
  prompt: str | tuple[Message, ...]
  sampling: Sampling
  sample: int = 0
  response_format: Mapping[str, Any] | None = dataclasses.field(
    default=None, hash=False
  )

  @property
  def is_chat(self) -> bool:
    return not isinstance(self.prompt, str)

  @property
  def url(self) -> str:
    """The path of the endpoint, as batch files name it."""
    return "/v1/chat/completions" if self.is_chat else "/v1/completions"

  def body(self) -> dict[str, Any]:
    """The request's JSON body in the OpenAI format."""
    sampling = self.sampling
    body: dict[str, Any] = {"model": self.model}
    if isinstance(self.prompt, str):
      body["prompt"] = self.prompt
    else:
      body["messages"] = [
        {"role": role, "content": text} for role, text in self.prompt
      ]
    body["max_tokens"] = sampling.max_tokens
    body["temperature"] = sampling.temperature
    if sampling.top_p != 1:
      body["top_p"] = sampling.top_p
    if sampling.stop:
      body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
      body["seed"] = sampling.seed + self.sample
    if self.response_format is not None:
      body["response_format"] = dict(self.response_format)
    return body | dict(sampling.extra)

  def estimated_tokens(self) -> Tokens:
    """A guess at its tokens: those read, and the most that may be written."""
    if isinstance(self.prompt, str):
      read = estimated_tokens(self.prompt)
    else:
      # A turn of a chat costs four tokens more than its text.
      texts = [text for _, text in self.prompt]
      read = estimated_tokens(*texts) + 4 * len(texts)
    return Tokens(read, self.sampling.max_tokens)

  @functools.cached_property
  def key(self) -> str:
    """SHA-256, in hex, of everything that decides the answer.

    The address of the endpoint is no part of it, so that a run can continue
    when the same model is served elsewhere.
    """
    content = {"url": self.url, "body": self.body(), "sample": self.sample}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def estimated_tokens(*texts: str) -> int:
  """A guess at the tokens of texts together: four bytes of UTF-8 for one."""
  size = sum(
    len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    for text in texts
  )
  return -(-size // 4)


@dataclasses.dataclass(frozen=True)
class Completion:
  """What a teacher answered.

  Attributes:
    text: the unchanged text.
    finish_reason: "stop", "length", "content_filter", or the provider's word.
    model: the name and revision that the provider reports.
    prompt_tokens: tokens read, by the provider's count; None if it is unknown.
    completion_tokens: tokens written, by the provider's count; None likewise.
    refusal: the provider's own field for a refusal; None if there is none.
    reasoning: what a reasoning model thought before its answer, where the
      provider gives it in a field of its own; None if it does not.
    cached_tokens: those of `prompt_tokens` that came from the provider's cache;
      None if it is unknown.
  """

  text: str
  finish_reason: str = "stop"
  model: str = ""
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  refusal: str | None = None
  reasoning: str | None = None
  cached_tokens: int | None = None

  def tokens(self, estimate: Tokens) -> Tokens:
    """Its tokens by the provider's count, or else by a guess.

    Some providers that do not count say 0, which no prompt has.

    Args:
      estimate: of the request, for the tokens read.
    """
    read = self.prompt_tokens
    written = self.completion_tokens or estimated_tokens(
      self.text, self.reasoning or ""
    )
    if not read:
      return Tokens(estimate.read, written)
    return Tokens(read, written, min(self.cached_tokens or 0, read))


# --- how requests and their attempts end --------------------------------------

ANSWERED = "answered"
REJECTED = "rejected"
GAVE_UP = "gave_up"

# Results of attempts, in addition to the kinds of TransientError.
INTERRUPTED = "interrupted"
CANCELLED = "cancelled"
SUBMITTED = "submitted"

# The teacher of what goes through a batch interface, in the ledger.
BATCH = "batch"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a request ended.

  Attributes:
    key: key of the request.
    kind: "answered", "rejected" (the provider will never answer it) or
      "gave_up" (it failed too often).
    teacher: name of the teacher.
    model: the requested model.
    completion: the answer; None unless answered.
    reason: why there is no answer, in one line.
    seconds: time from sending to the last byte, in the attempt that ended it.
    unix: when it ended, in seconds since 1970.
    attempt: number of that attempt; None if another process made it.
  """

  key: str
  kind: str
  teacher: str
  model: str
  completion: Completion | None = None
  reason: str = ""
  seconds: float | None = None
  unix: float = 0.0
  attempt: int | None = None


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One sending of a request.

  Attributes:
    number: counts up through the life of a ledger.
    id: what the provider got as X-Client-Request-Id; unique across ledgers.
    key: key of the request.
    teacher: name of the teacher.
    started: when it was sent, in seconds since 1970.
    ended: when it ended, in seconds since 1970; None if the process ended first.
    result: "answered", "rejected", "fatal", the kind of a TransientError,
      "cancelled", "interrupted" (found open by a later process), or "submitted"
      (with a batch, whose results are not here); None while it is under way.
    message: what went wrong, in one line.
    model: the requested model.
    tokens: what it is paid for, or may be: the provider's count, or an estimate
      that reaches to the longest answer; none where the provider did no work.
  """

  number: int
  id: str
  key: str
  teacher: str
  started: float
  ended: float | None
  result: str | None
  message: str
  model: str = ""
  tokens: Tokens = NO_TOKENS


@dataclasses.dataclass(frozen=True)
class Charge:
  """What attempts are paid for, or may be.

  Attributes:
    model: the requested model.
    is_batch: whether they went through a batch interface.
    tokens: all their tokens.
  """

  model: str
  is_batch: bool
  tokens: Tokens


@dataclasses.dataclass(frozen=True)
class ModelUsage:
  """What one model answered, with tokens as the provider counts them.

  Attributes:
    answers: number of answers.
    prompt_tokens: tokens read, over the answers with that count.
    completion_tokens: tokens written, over the answers with that count.
    without_usage: number of answers without both counts.
  """

  answers: int
  prompt_tokens: int
  completion_tokens: int
  without_usage: int
