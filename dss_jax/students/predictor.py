"""Asks a student: texts in, labels and rationales out, in order.

    predictor = Predictor(student, PredictOptions(("label", "rationale")))
    [answer] = predictor.predict([PredictInput("Tom has 3 apples ...")])

`dss-jax infer` and `dss-jax serve` are the two ways to do so from a shell.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Sequence
from typing import Any

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.tokens import text_checks
from dss_jax.models.decoding import input_batches
from dss_jax.students import predictions, queries
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.predictions import Alternative, PredictInput, Prediction
from dss_jax.students.queries import Query
from dss_jax.students.student import Student
from dss_jax.students.text_generators import ScoredText

__all__ = [
  "Alternative",
  "PredictInput",
  "PredictOptions",
  "Prediction",
  "Predictor",
]

# Tokens of the longest input of a student whose training lengths are not
# known: T5's own.
DEFAULT_MAX_INPUT = 512


class Predictor:
  """Asks one student, for one caller at a time (others wait).

  Attributes:
    student: the student.
    options: what it is asked for, and how answers are found.
    batch_sizes: numbers of inputs decoded together, ascending; a batch takes
      the smallest that holds it.
    lengths: lengths in tokens that inputs are padded to, ascending. Each batch
      size with each length is a shape that is compiled once, when it is first
      needed or by `warm_up`.
    max_input: longest input in tokens, end id included; longer ones are cut.
    num_tokens: tokens of all inputs so far, end ids included. It only grows, as
      counters of a server's metrics do; read it after a call of `predict`.
    num_unknown: those of them that the vocabulary does not know, prefixes
      aside.
  """

  def __init__(
    self,
    student: Student,
    options: PredictOptions | None = None,
    batch_size: int | Sequence[int] = 64,
    *,
    lengths: Sequence[int] | None = None,
  ):
    """Makes a predictor; nothing is compiled yet.

    Args:
      student: the student.
      options: what it is asked for, and how answers are found.
      batch_size: the most inputs decoded together, with 1 and 8 for the last of
        a call; or all of `batch_sizes`. Rounded up to what the student's
        devices can share.
      lengths: see the attribute; `default_lengths` by default. The longest
        is always among them.

    Raises:
      UserError: for options that the student cannot serve.
    """
    self.student = student
    self.options = options or PredictOptions()
    sizes = batch_size
    if isinstance(sizes, int):
      sizes = [size for size in (1, 8) if size < sizes] + [sizes]
    if not sizes or min(sizes) < 1:
      raise UserError(
        f"batch_size is {batch_size}; it must be 1 or more",
        fields="batch_size",
      )
    shards = student.partitioner.batch_shards
    self.batch_sizes = sorted({-(-size // shards) * shards for size in sizes})
    self.max_input = self.options.max_input_length or (
      student.feature_lengths.get("inputs", DEFAULT_MAX_INPUT)
    )
    self.lengths = self._with_longest(
      default_lengths(self.max_input) if lengths is None else lengths
    )
    self._queries = queries.make(student, self.options, self.batch_sizes[-1])
    self._unknown_in_template = [
      self._num_unknown(self._ids(query, PredictInput("", "")))
      for query in self._queries
    ]
    self.num_tokens = self.num_unknown = 0
    self._lock = threading.Lock()

  @property
  def num_labels(self) -> int | None:
    """How many labels there are, where only these are predicted."""
    if not any(query.is_closed for query in self._queries):
      return None
    return len(self.options.labels or self.student.labels or ())

  @property
  def needs_rationale(self) -> bool:
    """Whether inputs must bring a rationale for the student to read."""
    return any(
      "{rationale}" in query.subtask.input_format for query in self._queries
    )

  @property
  def is_exhaustive(self) -> bool:
    """Whether it scores all texts that there are, a closed set of labels."""
    return all(query.generator.exhaustive for query in self._queries)

  def fit_lengths(
    self, items: Sequence[PredictInput], *, num_lengths: int = 4
  ) -> list[int]:
    """Declares the lengths that pad such inputs with the fewest tokens.

    Args:
      items: a sample of what will be asked.
      num_lengths: the most lengths up to the sample's longest input; longer
        ones stay as they are.

    Returns:
      The lengths.
    """
    sizes = [
      min(len(self._ids(query, item)) + 1, self.max_input)
      for query in self._queries
      for item in items
      if item.problem() is None
    ]
    if sizes:
      found = input_batches.declared_lengths(sizes, num_lengths=num_lengths)
      longer = [length for length in self.lengths if length > found[-1]]
      self.lengths = self._with_longest([*found, *longer])
    return self.lengths

  def warm_up(self) -> int:
    """Compiles all shapes now; returns how many there are."""
    shapes = [
      (size, length) for size in self.batch_sizes for length in self.lengths
    ]
    with self._lock:
      for query in self._queries:
        query.generator.declare(self.lengths, self.batch_sizes)
        for size, length in shapes:
          longest = [vocabularies.EOS_ID] * length
          query.generator([longest] * size, seed=0)
    return len(self._queries) * len(shapes)

  def predict(
    self, items: Sequence[PredictInput], *, seed: int | None = None
  ) -> list[Prediction]:
    """The student's answers, in the order of the questions.

    A question that cannot be asked has an answer with an `error`; the others
    are answered all the same.

    Args:
      items: any number of questions.
      seed: of sampling; the options' by default.
    """
    seed = self.options.seed if seed is None else seed
    found = [Prediction(id=item.id, error=item.problem()) for item in items]
    with self._lock:
      for number in range(len(self._queries)):
        self._answer(number, items, found, seed)
    # An input that one query cannot ask has no answer to the others either.
    return [
      Prediction(id=answer.id, error=answer.error) if answer.error else answer
      for answer in found
    ]

  def _answer(
    self,
    number: int,
    items: Sequence[PredictInput],
    found: list[Prediction],
    seed: int,
  ) -> None:
    """Adds what the texts of one query say to all predictions."""
    query = self._queries[number]
    asked, inputs = [], []
    for position, item in enumerate(items):
      before = found[position]
      if before.error is not None:
        continue
      try:
        whole = self._ids(query, item)
      except UserError as error:
        found[position] = dataclasses.replace(before, error=str(error))
        continue
      ids = vocabularies.with_eos(whole, self.max_input)
      unknown = self._num_unknown(ids) - self._unknown_in_template[number]
      found[position] = dataclasses.replace(
        before,
        truncated=before.truncated or len(ids) <= len(whole),
        num_tokens=max(before.num_tokens, len(ids)),
        unknown_tokens=max(before.unknown_tokens, unknown),
      )
      self.num_tokens += len(ids)
      self.num_unknown += max(unknown, 0)
      asked.append(position)
      inputs.append(ids)
    query.generator.declare(self.lengths, self.batch_sizes)
    outputs = query.generator(inputs, seed=seed)
    for position, texts in zip(asked, outputs, strict=True):
      found[position] = self._with_output(found[position], query, texts)

  def _with_output(
    self, before: Prediction, query: Query, texts: Sequence[ScoredText]
  ) -> Prediction:
    """A prediction with what the texts of one query add to it."""
    fields: dict[str, Any] = {}
    if any(math.isnan(text.log_prob) for text in texts):
      return dataclasses.replace(
        before,
        error="the student's probabilities are no numbers; its parameters are"
        " damaged or too large for its dtype",
      )
    if query.generator.exhaustive:
      fields["label_scores"] = _probabilities(texts)
      texts = texts[: self.options.num_best]
    alternatives = [self._alternative(query, text) for text in texts]
    if self.options.samples:
      alternatives, fields["votes"] = predictions.vote(alternatives)
    best = alternatives[0]
    if query.label:
      fields |= {"label": best.label, "label_score": best.score}
    if query.rationale:
      fields |= {"rationale": best.rationale, "rationale_score": best.score}
    if self.options.num_best > 1:
      fields["alternatives"] = (*before.alternatives, *alternatives)
    return dataclasses.replace(before, **fields)

  def _ids(self, query: Query, item: PredictInput) -> list[int]:
    """Token ids of all that the student should read, without the end id."""
    text = self.student.input_text(query.subtask, item.input, item.rationale)
    return self.student.vocabulary.encode(text)

  def _num_unknown(self, ids: Sequence[int]) -> int:
    return ids.count(self.student.vocabulary.unk_id)

  def text_report(self) -> list[str]:
    """Lines about prefixes and separators that the vocabulary cannot write."""
    return text_checks.missing_in_templates(
      [query.subtask for query in self._queries],
      self.student.options,
      self.student.vocabulary,
    )

  def _alternative(self, query: Query, output: ScoredText) -> Alternative:
    """What a text says."""
    if query.is_closed:
      return Alternative(output.log_prob, label=output.text)
    label, rationale = query.reader.label_and_rationale(output.text)
    return Alternative(
      output.log_prob,
      label if query.label else None,
      rationale if query.rationale else None,
    )

  def _with_longest(self, lengths: Sequence[int]) -> list[int]:
    """The lengths within bounds, including the longest input's."""
    longest = -(-self.max_input // 8) * 8
    return sorted({*(n for n in lengths if n < longest), longest})


def default_lengths(longest: int) -> list[int]:
  """Lengths in tokens to pad inputs to, if only the longest is known.

  They are powers of two and the numbers midway between them, so that at most a
  third is padding, except for the shortest inputs.
  """
  lengths = [16, 24]
  while lengths[-1] < longest:
    lengths.append(2 * lengths[-2])
  return [length for length in lengths if length < longest] + [longest]


def _probabilities(outputs: Sequence[ScoredText]) -> dict[str, float]:
  """The probability of each label, if these are all labels."""
  highest = max(output.log_prob for output in outputs)
  weights = [math.exp(output.log_prob - highest) for output in outputs]
  total = sum(weights)
  return {o.text: weight / total for o, weight in zip(outputs, weights)}
