"""What a student's programs make of token ids: texts, or chosen labels.

Each works in declared shapes, a number of inputs by a number of tokens, that
are compiled once: short inputs go to short rows, so that none is padded to the
longest.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.models import partitioning
from dss_jax.models.decoding import (
  allowed_outputs,
  candidates,
  generation,
  input_batches,
)
from dss_jax.models.decoding.generation import Decoded, DecodeOptions
from dss_jax.students.student import Student
from dss_jax.vocabularies import EOS_ID

# Prefixes of all labels together that one pass of the decoder may hold. Larger
# sets are searched.
MAX_SCORED_PREFIXES = 512
# Beams of that search.
_NUM_BEAMS = 4
# Batches that may wait for the devices.
_IN_FLIGHT = 2


class Written(NamedTuple):
  """A text and its log-probability, its end included."""

  text: str
  log_prob: float


class Program(Protocol):
  """Texts for inputs, the best first.

  Attributes:
    exhaustive: whether all texts that there could be are told of.
  """

  exhaustive: bool

  def declare(self, lengths: Sequence[int], batch_sizes: Sequence[int]) -> None:
    """Declares the shapes of the calls to come; both ascending."""
    ...

  def __call__(
    self, inputs: Sequence[Sequence[int]], *, seed: int
  ) -> list[list[Written]]:
    """The texts of each input, of which there is one at least."""
    ...


class Writer:
  """Writes freely, or one of a large set of labels."""

  exhaustive = False

  def __init__(
    self,
    student: Student,
    options: DecodeOptions,
    max_length: int,
    *,
    batch_size: int,
    labels: Labels | None = None,
  ):
    """Compiles nothing yet.

    Args:
      student: who writes.
      options: how.
      max_length: of a text, in tokens, end id included.
      batch_size: inputs decoded together at most.
      labels: the texts there are; None for any.
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
  ) -> list[list[Written]]:
    decoded = self._generator.decode(
      self._student.params,
      inputs,
      max_decode_length=self._max_length,
      seed=seed,
      constrain=self._trie,
    )
    return [[self._written(each) for each in outputs] for outputs in decoded]

  def _written(self, output: Decoded) -> Written:
    if self._labels is None:
      text = self._student.vocabulary.decode(output.tokens)
    else:
      text = self._labels.of_tokens[tuple(output.tokens)]
    return Written(text, log_prob(output, self._options))


class Chooser:
  """Chooses among all labels, by the probability of each."""

  exhaustive = True

  def __init__(self, student: Student, labels: Labels, *, batch_size: int):
    """Compiles nothing yet.

    Args:
      student: who is asked.
      labels: all there are.
      batch_size: inputs looked at together at most.
    """
    self._student = student
    self._labels = labels.texts
    self._batch_size = batch_size
    self._lengths: Sequence[int] | None = None
    self._batch_sizes: Sequence[int] = ()
    self._score = jax.jit(
      lambda params, tokens: candidates.score_sequences(
        student.model, params, tokens, labels.tokens
      )
    )

  def declare(self, lengths: Sequence[int], batch_sizes: Sequence[int]) -> None:
    self._lengths, self._batch_sizes = lengths, batch_sizes

  def __call__(
    self, inputs: Sequence[Sequence[int]], *, seed: int
  ) -> list[list[Written]]:
    del seed
    found: list[list[Written]] = [[] for _ in inputs]
    waiting: collections.deque[tuple[np.ndarray, jax.Array]]
    waiting = collections.deque()

    def collect() -> None:
      index, scores = waiting.popleft()
      log_probs = partitioning.to_host(scores)
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

  def _ranked(self, log_probs: np.ndarray) -> list[Written]:
    order = np.argsort(-log_probs, kind="stable")
    return [Written(self._labels[i], float(log_probs[i])) for i in order]


class Labels:
  """A closed set of labels, as tokens of a vocabulary.

  Attributes:
    texts: the labels.
    tokens: their ids, without the end id.
    of_tokens: the label of given ids.
  """

  def __init__(self, student: Student, texts: Sequence[str]):
    """Raises UserError for labels that the student cannot tell apart."""
    self.texts = tuple(texts)
    self.tokens = [student.vocabulary.encode(text) for text in self.texts]
    self.of_tokens: dict[tuple[int, ...], str] = {}
    for text, ids in zip(self.texts, self.tokens, strict=True):
      if not ids or EOS_ID in ids or student.vocabulary.unk_id in ids:
        raise UserError(
          f"--labels: the student's vocabulary cannot write {text!r}; give"
          " labels that it can, or --constrain=off"
        )
      other = self.of_tokens.setdefault(tuple(ids), text)
      if other != text:
        raise UserError(
          f"--labels: {other!r} and {text!r} are the same to the student's"
          " vocabulary; leave one out"
        )

  @property
  def num_prefixes(self) -> int:
    return len(
      {tuple(ids[:k]) for ids in self.tokens for k in range(len(ids) + 1)}
    )


def label_program(
  student: Student, labels: Labels, *, num_best: int, batch_size: int
) -> Program:
  """A program that predicts one of a closed set of labels."""
  if labels.num_prefixes <= MAX_SCORED_PREFIXES:
    return Chooser(student, labels, batch_size=batch_size)
  options = DecodeOptions(
    strategy="beam",
    num_beams=max(_NUM_BEAMS, num_best),
    num_return=num_best,
    length_penalty=0.0,
  )
  return Writer(student, options, 0, batch_size=batch_size, labels=labels)


def log_prob(output: Decoded, options: DecodeOptions) -> float:
  """An output's log-probability, without what beam search makes of it."""
  length = len(output.tokens) + output.ended
  if options.strategy != "beam" or not length:
    return output.score
  penalty = options.length_penalty
  if options.convention == "huggingface":
    return output.score * length ** (1.0 if penalty is None else penalty)
  # What did not come to an end is scored as it is: see `beam_search`.
  alpha = (0.6 if penalty is None else penalty) if output.ended else 0.0
  return output.score * ((5.0 + length) / 6.0) ** alpha
