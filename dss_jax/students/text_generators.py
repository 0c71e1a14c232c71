"""Finds the texts that a student writes: any text, or one of known labels.

Inputs are padded to declared shapes (a number of inputs by a number of tokens)
that are compiled once; short inputs take short shapes, so that none is padded
to the longest.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from dss_jax.data.tokens import text_checks
from dss_jax.models import partitioning
from dss_jax.models.decoding import (
  allowed_outputs,
  generation,
  input_batches,
  label_scoring,
)
from dss_jax.models.decoding.decode_options import DecodeOptions
from dss_jax.models.decoding.generation import Decoded
from dss_jax.students.student import Student

# The most prefixes of all labels together that one pass of the decoder scores.
# Larger sets of labels are searched.
MAX_SCORED_PREFIXES = 512
# Beams of that search.
_NUM_BEAMS = 4
# Batches that may wait for the devices.
_IN_FLIGHT = 2


class ScoredText(NamedTuple):
  """A text and its log-probability, its end included."""

  text: str
  log_prob: float


class TextGenerator(Protocol):
  """Finds texts for inputs, the best first.

  Attributes:
    exhaustive: whether the texts of an input are all that are possible.
  """

  exhaustive: bool

  def declare(self, lengths: Sequence[int], batch_sizes: Sequence[int]) -> None:
    """Declares the shapes of the calls to come; both ascend."""
    ...

  def __call__(
    self, inputs: Sequence[Sequence[int]], *, seed: int
  ) -> list[list[ScoredText]]:
    """Returns the texts of each input, at least one."""
    ...


class LabelSet:
  """A closed set of labels, as tokens of a vocabulary.

  Attributes:
    texts: the labels.
    tokens: the ids of each label, without the end id.
    of_tokens: the label of given ids.
  """

  def __init__(self, student: Student, texts: Sequence[str]):
    """Raises UserError for labels that the student cannot tell apart."""
    self.texts = tuple(texts)
    text_checks.check_labels(
      self.texts,
      student.vocabulary,
      remedy="give others, or set constrain to off",
      fields=("PredictOptions.labels", "PredictOptions.constrain"),
    )
    self.tokens = [student.vocabulary.encode(text) for text in self.texts]
    self.of_tokens = {
      tuple(ids): text
      for text, ids in zip(self.texts, self.tokens, strict=True)
    }

  @property
  def num_prefixes(self) -> int:
    return len(
      {tuple(ids[:k]) for ids in self.tokens for k in range(len(ids) + 1)}
    )


class FreeTextGenerator:
  """Decodes any text, or one of a large set of labels."""

  exhaustive = False

  def __init__(
    self,
    student: Student,
    options: DecodeOptions,
    max_length: int,
    *,
    batch_size: int,
    labels: LabelSet | None = None,
  ):
    """Compiles nothing yet.

    Args:
      student: the student that writes.
      options: how texts are found.
      max_length: of a text, in tokens, end id included.
      batch_size: the most inputs decoded together.
      labels: the only texts allowed; None for any text.
    """
    self._student = student
    self._options = options
    self._max_length = max_length
    self._labels = labels
    self._trie = labels and allowed_outputs.Trie.from_sequences(labels.tokens)
    if self._trie:
      self._max_length = self._trie.longest
    self._generator = generation.Generator(
      student.model, student.partitioner, options, batch_size=batch_size
    )

  def declare(self, lengths: Sequence[int], batch_sizes: Sequence[int]) -> None:
    self._generator.declare(lengths=lengths, batch_sizes=batch_sizes)

  def __call__(
    self, inputs: Sequence[Sequence[int]], *, seed: int
  ) -> list[list[ScoredText]]:
    decoded = self._generator.decode(
      self._student.params,
      inputs,
      max_decode_length=self._max_length,
      seed=seed,
      constrain=self._trie,
    )
    return [[self._scored(o) for o in outputs] for outputs in decoded]

  def _scored(self, output: Decoded) -> ScoredText:
    if self._labels is None:
      text = self._student.vocabulary.decode(output.tokens)
    else:
      text = self._labels.of_tokens[tuple(output.tokens)]
    return ScoredText(text, log_prob(output, self._options))


class LabelScorer:
  """Scores all labels of a small set in one pass of the decoder."""

  exhaustive = True

  def __init__(self, student: Student, labels: LabelSet, *, batch_size: int):
    """Compiles nothing yet.

    Args:
      student: the student that is asked.
      labels: all labels.
      batch_size: the most inputs scored together.
    """
    self._student = student
    self._labels = labels.texts
    self._batch_size = batch_size
    self._lengths: Sequence[int] | None = None
    self._batch_sizes: Sequence[int] = ()
    self._score = jax.jit(
      lambda params, tokens: label_scoring.score_sequences(
        student.model, params, tokens, labels.tokens
      )
    )

  def declare(self, lengths: Sequence[int], batch_sizes: Sequence[int]) -> None:
    self._lengths, self._batch_sizes = lengths, batch_sizes

  def __call__(
    self, inputs: Sequence[Sequence[int]], *, seed: int
  ) -> list[list[ScoredText]]:
    del seed
    found: list[list[ScoredText]] = [[] for _ in inputs]
    waiting: collections.deque[tuple[np.ndarray, jax.Array]]
    waiting = collections.deque()

    def collect() -> None:
      index, scores = waiting.popleft()
      log_probs = partitioning.to_host(scores)  # [batch, labels]
      for row, position in enumerate(index.tolist()):
        if position >= 0:
          found[position] = self._ranked(log_probs[row])

    name, partitioner = "encoder_input_tokens", self._student.partitioner
    with partitioner.activate():
      for batch in input_batches.padded_batches(
        inputs,
        self._batch_size,
        lengths=self._lengths,
        batch_sizes=self._batch_sizes,
      ):
        tokens = batch.encoder_input_tokens
        rows = partitioner.process_rows(len(tokens))
        put = partitioner.put_batch({name: tokens[rows]}, {name: tokens.shape})
        waiting.append(
          (batch.index, self._score(self._student.params, put[name]))
        )
        if len(waiting) > _IN_FLIGHT:
          collect()
      while waiting:
        collect()
    return found

  def _ranked(self, log_probs: np.ndarray) -> list[ScoredText]:
    order = np.argsort(-log_probs, kind="stable")
    return [ScoredText(self._labels[i], float(log_probs[i])) for i in order]


def label_generator(
  student: Student, labels: LabelSet, *, num_best: int, batch_size: int
) -> TextGenerator:
  """A generator that predicts one of a closed set of labels."""
  if labels.num_prefixes <= MAX_SCORED_PREFIXES:
    return LabelScorer(student, labels, batch_size=batch_size)
  options = DecodeOptions(
    strategy="beam",
    num_beams=max(_NUM_BEAMS, num_best),
    num_return=num_best,
    length_penalty=0.0,
  )
  return FreeTextGenerator(
    student, options, 0, batch_size=batch_size, labels=labels
  )


def log_prob(output: Decoded, options: DecodeOptions) -> float:
  """An output's log-probability, without the length penalty of beam search."""
  length = len(output.tokens) + output.ended
  if options.strategy != "beam" or not length:
    return output.score
  penalty = options.length_penalty
  if options.convention == "huggingface":
    return output.score * length ** (1.0 if penalty is None else penalty)
  # Outputs that did not end have no penalty: see `beam_search`.
  alpha = (0.6 if penalty is None else penalty) if output.ended else 0.0
  return output.score * ((5.0 + length) / 6.0) ** alpha
