"""Asking a student: texts in, labels and rationales out, in order.

    predictor = Predictor(student, PredictOptions(("label", "rationale")))
    [answer] = predictor.predict([PredictInput("Tom has 3 apples ...")])

`dss-jax infer` and `dss-jax serve` are the two ways to it from a shell.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
from collections.abc import Sequence
from typing import Any

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs.subtasks import SubTask
from dss_jax.models.decoding import generation, input_batches
from dss_jax.students import predictions, programs
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.predictions import Alternative, PredictInput, Prediction
from dss_jax.students.programs import Labels, Program, Writer, Written
from dss_jax.students.student import Student

__all__ = [
  "Alternative",
  "PredictInput",
  "PredictOptions",
  "Prediction",
  "Predictor",
]

# Longest input of a student of which nothing else is known: T5's own.
DEFAULT_MAX_INPUT = 512
# Longest target of such a student.
DEFAULT_MAX_TARGET = 128


@dataclasses.dataclass(frozen=True)
class _Ask:
  """One text that the student writes for each input.

  Attributes:
    subtask: which.
    program: decodes it.
    label: whether its label is wanted.
    rationale: whether its rationale is wanted.
    chosen: whether it is one of a closed set of labels.
  """

  subtask: SubTask
  program: Program
  label: bool
  rationale: bool
  chosen: bool


class Predictor:
  """Asks one student, one caller at a time (others wait).

  Attributes:
    student: who is asked.
    options: what, and how.
    batch_sizes: numbers of inputs decoded together, ascending; a batch takes
      the smallest that holds it.
    lengths: numbers of tokens of the inputs' rows, ascending. Each batch size
      with each length is a shape that is compiled once, when it is first
      needed or by `warm_up`.
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
      student: who is asked.
      options: what, and how.
      batch_size: inputs decoded together at most, with 1 and 8 for the last of
        a call; or all of `batch_sizes`. Rounded up to what the student's
        devices can share.
      lengths: see the attribute; `declared_lengths` by default. The longest
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
    shards = student.partitioner.data_size
    self.batch_sizes = sorted({-(-size // shards) * shards for size in sizes})
    self.max_input = _max_input(student, self.options)
    self.lengths = self._with_longest(
      declared_lengths(self.max_input) if lengths is None else lengths
    )
    self._asks = self._make_asks()
    self._lock = threading.Lock()

  @property
  def needs_rationale(self) -> bool:
    """Whether inputs must bring a rationale for the student to read."""
    return any("{rationale}" in ask.subtask.input_format for ask in self._asks)

  def fit_lengths(
    self, items: Sequence[PredictInput], *, num_lengths: int = 4
  ) -> list[int]:
    """Declares the lengths that waste the fewest tokens on such inputs.

    Args:
      items: a sample of what will be asked.
      num_lengths: at most so many lengths up to the sample's longest; beyond
        it they stay as they are.

    Returns:
      The lengths.
    """
    sizes = [
      len(ids)
      for ask in self._asks
      for item in items
      if item.problem() is None
      for ids, _ in [self._encode(ask, item)]
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
      for ask in self._asks:
        ask.program.declare(self.lengths, self.batch_sizes)
        for size, length in shapes:
          longest = [vocabularies.EOS_ID] * length
          ask.program([longest] * size, seed=0)
    return len(self._asks) * len(shapes)

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
      for ask in self._asks:
        self._answer(ask, items, found, seed)
    # Of what cannot be asked in full, nothing is told.
    return [
      Prediction(id=each.id, error=each.error) if each.error else each
      for each in found
    ]

  # ------------------------------------------------------------------- asking

  def _answer(
    self,
    ask: _Ask,
    items: Sequence[PredictInput],
    found: list[Prediction],
    seed: int,
  ) -> None:
    """Adds to all predictions what one text says."""
    asked, inputs = [], []
    for position, item in enumerate(items):
      before = found[position]
      if before.error is not None:
        continue
      try:
        ids, truncated = self._encode(ask, item)
      except UserError as error:
        found[position] = dataclasses.replace(before, error=str(error))
        continue
      if truncated:
        found[position] = dataclasses.replace(before, truncated=True)
      asked.append(position)
      inputs.append(ids)
    ask.program.declare(self.lengths, self.batch_sizes)
    outputs = ask.program(inputs, seed=seed)
    for position, written in zip(asked, outputs, strict=True):
      found[position] = self._with_output(found[position], ask, written)

  def _with_output(
    self, before: Prediction, ask: _Ask, written: Sequence[Written]
  ) -> Prediction:
    """A prediction with what one sub-task's texts add to it."""
    fields: dict[str, Any] = {}
    if ask.program.exhaustive:
      fields["label_scores"] = _probabilities(written)
      written = written[: self.options.num_best]
    alternatives = [self._alternative(ask, each) for each in written]
    if self.options.samples:
      alternatives, fields["votes"] = _vote(alternatives)
    best = alternatives[0]
    if ask.label:
      fields |= {"label": best.label, "label_score": best.score}
    if ask.rationale:
      fields |= {"rationale": best.rationale, "rationale_score": best.score}
    if self.options.num_best > 1:
      fields["alternatives"] = (*before.alternatives, *alternatives)
    return dataclasses.replace(before, **fields)

  def _encode(self, ask: _Ask, item: PredictInput) -> tuple[list[int], bool]:
    """Token ids of what the student reads, and whether that was cut."""
    text = self.student.input_text(ask.subtask, item.input, item.rationale)
    ids = self.student.vocabulary.encode(text)
    cut = vocabularies.with_eos(ids, self.max_input)
    return cut, len(cut) <= len(ids)

  def _alternative(self, ask: _Ask, written: Written) -> Alternative:
    """What a text says."""
    if ask.chosen:
      return Alternative(written.log_prob, label=written.text)
    label, rationale = predictions.read_output(
      ask.subtask, written.text, self.student.options
    )
    return Alternative(
      written.log_prob,
      label if ask.label else None,
      rationale if ask.rationale else None,
    )

  # ------------------------------------------------------------------- making

  def _make_asks(self) -> list[_Ask]:
    """The texts to ask for: one for all outputs where one holds them."""
    label = self._writer("label") if "label" in self.options.outputs else None
    rationale = None
    if "rationale" in self.options.outputs:
      rationale = self._writer("rationale", first=label)
    if self.options.samples and not (
      label and predictions.writes_rationale(label)
    ):
      raise UserError(
        "--samples votes on labels of texts that reason first; this student"
        " writes its labels alone: leave --samples out"
      )
    wanted = [each for each in (label, rationale) if each]
    closed = self._closed_set(label)
    return [
      _Ask(
        subtask,
        self._program(subtask, closed if subtask is label else None),
        label=subtask is label,
        rationale=subtask is rationale,
        chosen=closed is not None and subtask is label,
      )
      for subtask in dict.fromkeys(wanted)
    ]

  def _closed_set(self, label: SubTask | None) -> Labels | None:
    """The labels there can be; None where anything can be written.

    Raises:
      UserError: they were asked for and cannot be had.
    """
    constrain = self.options.constrain
    known = self.options.labels or self.student.labels
    asked = constrain or self.options.labels is not None
    alone = label is not None and not predictions.writes_rationale(label)
    if constrain is False or not (asked or known):
      return None
    if not alone:
      if asked:
        raise UserError(
          "--labels and --constrain=on are for labels that are written alone;"
          " this student writes a rationale beside them"
          if label
          else "--labels and --constrain=on are for --outputs=label"
        )
      return None
    if known is None:
      raise UserError(
        "--constrain=on needs --labels: the student's dataset has no closed set"
        " of them"
      )
    return Labels(self.student, known)

  def _writer(self, output: str, first: SubTask | None = None) -> SubTask:
    """The sub-task whose text holds an output; `first`, if that does."""
    for subtask in (first, *self.student.subtasks):
      if subtask is not None and (
        subtask.uses_label
        if output == "label"
        else predictions.writes_rationale(subtask)
      ):
        return subtask
    raise UserError(
      f"--outputs asks for a {output}, which this student was not taught to"
      " write; its sub-tasks are"
      f" {', '.join(each.name for each in self.student.subtasks)}"
    )

  def _program(self, subtask: SubTask, closed: Labels | None) -> Program:
    options, batch_size = self.options, self.batch_sizes[-1]
    if closed:
      return programs.label_program(
        self.student, closed, num_best=options.num_best, batch_size=batch_size
      )
    decode = options.decode
    if options.samples:
      decode = dataclasses.replace(
        decode,
        strategy="sample",
        num_return=options.samples,
        rescale_log_probs=False,
      )
    elif options.num_best > 1:
      decode = dataclasses.replace(
        decode,
        strategy="beam",
        num_beams=max(decode.num_beams, options.num_best),
        num_return=options.num_best,
      )
    return Writer(
      self.student, decode, self._max_output(subtask), batch_size=batch_size
    )

  def _max_output(self, subtask: SubTask) -> int:
    """Longest output in tokens, end id included."""
    if self.options.decode.max_length is not None:
      return self.options.decode.max_length
    longest = self.student.feature_lengths.get("targets", DEFAULT_MAX_TARGET)
    labels = self.student.labels
    if labels and not predictions.writes_rationale(subtask):
      encode = self.student.vocabulary.encode
      longest = min(longest, 1 + max(len(encode(label)) for label in labels))
    return generation.decode_length(longest)

  def _with_longest(self, lengths: Sequence[int]) -> list[int]:
    """The lengths within bounds, the longest input's among them."""
    longest = -(-self.max_input // 8) * 8
    return sorted({*(each for each in lengths if each < longest), longest})


def declared_lengths(longest: int) -> list[int]:
  """Row lengths for inputs of which nothing is known but the longest.

  Powers of two and what lies midway between them: at most a third of a row is
  padding, but for the shortest inputs.
  """
  lengths = [16, 24]
  while lengths[-1] < longest:
    lengths.append(2 * lengths[-2])
  return [length for length in lengths if length < longest] + [longest]


def _max_input(student: Student, options: PredictOptions) -> int:
  if options.max_input_length is not None:
    return options.max_input_length
  return student.feature_lengths.get("inputs", DEFAULT_MAX_INPUT)


def _vote(
  samples: Sequence[Alternative],
) -> tuple[list[Alternative], float]:
  """The most probable sample of those with the label that most name.

  Samples that name none have no vote. Between labels with equal votes the
  more probable sample decides.

  Returns:
    The samples, that one first, and the share of all samples that name its
    label.
  """
  votes = collections.Counter(each.label for each in samples if each.label)
  best = max(
    samples, key=lambda each: (votes.get(each.label or "", 0), each.score)
  )
  share = votes.get(best.label or "", 0) / len(samples)
  return [best, *(each for each in samples if each is not best)], share


def _probabilities(written: Sequence[Written]) -> dict[str, float]:
  """Of each label, where these are all there are."""
  highest = max(each.log_prob for each in written)
  weights = [math.exp(each.log_prob - highest) for each in written]
  total = sum(weights)
  return {each.text: w / total for each, w in zip(written, weights)}
