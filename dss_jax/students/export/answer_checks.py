"""Checks that an exported student answers as the student does.

The student's own greedy outputs are compared with those of the program that
the export is for: token for token, label for label, and their log-probabilities
too, because a conversion that forgets to scale the logits chooses the same
tokens with other probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks, task_names
from dss_jax.data.pairs.output_reading import OutputReader
from dss_jax.data.tokens import evaluation_sets
from dss_jax.data.tokens.tokenization import TaskSource
from dss_jax.datasets import DataOptions
from dss_jax.models import encoder_decoder
from dss_jax.models.decoding import generation
from dss_jax.models.decoding.decode_options import DecodeOptions
from dss_jax.students.student import Student

BATCH_SIZE = 32
# Tokens of the longest output, if the length of targets is not known.
DEFAULT_OUTPUT_TOKENS = 128

# Rounding in float32 may change log-probabilities by this many nats for each
# sequence and for each token. Unscaled logits change them by nats for each token.
_SCORE_TOLERANCE = 0.01
_SCORE_TOLERANCE_PER_TOKEN = 0.005


@dataclasses.dataclass(frozen=True)
class Questions:
  """Inputs of one sub-task.

  Attributes:
    subtask: what is asked.
    inputs: token ids of each input, end id included.
    evaluation: the dataset's targets and metric, if there is a dataset.
  """

  subtask: subtasks.SubTask
  inputs: list[list[int]]
  evaluation: evaluation_sets.Evaluation | None = None


@dataclasses.dataclass(frozen=True)
class Answers:
  """Greedy outputs.

  Attributes:
    outputs: token ids of each output, cut before the end id.
    scores: [outputs] float32, their log-probabilities in nats, end id included
      if it was written; None if a program has none.
  """

  outputs: list[list[int]]
  scores: np.ndarray | None = None


# (inputs, longest output in tokens) -> answers
Answer = Callable[[Sequence[Sequence[int]], int], Answers]
# See `answer_in_batches`.
DecodeBatch = Callable[
  [np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]
]


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How an exported student's answers compare with the student's own.

  Attributes:
    subtask: name of the sub-task.
    count: number of inputs.
    outputs: how many outputs are the same, token for token.
    labels: how many labels are the same; None for sub-tasks without labels.
    score_difference: largest difference of the log-probabilities of equal
      outputs, in nats; None if it is not known.
    accuracy: share of correct labels of the student and of the exported
      student; None without targets.
    from_dataset: whether the inputs come from a dataset; else they are random.
  """

  subtask: str
  count: int
  outputs: int
  labels: int | None = None
  score_difference: float | None = None
  accuracy: tuple[float, float] | None = None
  from_dataset: bool = False

  @property
  def share(self) -> float:
    """The share that must agree: of labels, or else of outputs."""
    same = self.outputs if self.labels is None else self.labels
    return same / max(self.count, 1)

  def __str__(self) -> str:
    inputs = "test inputs" if self.from_dataset else "random inputs"
    parts = [f"identical outputs {self.outputs}/{self.count}"]
    if self.labels is not None:
      parts.insert(0, f"identical labels {self.labels}/{self.count}")
    if self.accuracy:
      ours, theirs = self.accuracy
      parts.append(f"accuracy {theirs:.4f} (student {ours:.4f})")
    if self.score_difference is not None:
      parts.append(f"log-probabilities within {self.score_difference:.1e} nats")
    return f"{self.subtask}, {self.count} {inputs}: {', '.join(parts)}"


def output_tokens(student: Student) -> int:
  """Tokens of the longest output: as many as the longest target in training."""
  return student.feature_lengths.get("targets") or DEFAULT_OUTPUT_TOKENS


def check_finite(student: Student) -> None:
  """Raises UserError where a parameter is not a finite number."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(student.params):
    if not bool(jnp.isfinite(leaf).all()):
      name = "/".join(str(getattr(key, "key", key)) for key in path)
      raise UserError(
        f"the student's parameter {name} holds values that are not finite"
        " numbers: choose an earlier checkpoint",
        fields="checkpoint",
      )


def questions(
  student: Student, count: int, data: DataOptions | None = None
) -> list[Questions]:
  """Up to `count` inputs of each sub-task: the dataset's test inputs.

  Without a dataset, or if its files are missing, they are random tokens.
  """
  found: dict[str, evaluation_sets.Evaluation] = {}
  task = student.description.get("task")
  if task and task_names.parse_task_name(task):
    try:
      source = TaskSource.load(
        task,
        "test",
        student.vocabulary,
        data,
        student.options,
        student.feature_lengths,
      )
      found = evaluation_sets.build_evaluations(source, max_examples=count)
    except (UserError, OSError):  # a student without data can be exported
      found = {}
  result = [
    Questions(subtask, evaluation.inputs, evaluation)
    for subtask in student.subtasks
    if (evaluation := found.get(subtask.name)) is not None and len(evaluation)
  ]
  if not result:
    inputs = _random_inputs(student, count)
    result.append(Questions(student.subtasks[0], inputs))
  return result


def _random_inputs(student: Student, count: int) -> list[list[int]]:
  vocabulary = student.vocabulary
  longest = max(min(student.feature_lengths.get("inputs", 32), 32) - 1, 1)
  rng = np.random.default_rng(0)
  first = vocabularies.UNK_ID + 1
  last = max(vocabulary.vocab_size - vocabulary.extra_ids, first + 1)
  return [
    [*rng.integers(first, last, rng.integers(1, longest + 1)).tolist(), 1]
    for _ in range(count)
  ]


def student_answers(
  student: Student, num_beams: int = 1, *, own_dtype: bool = False
) -> Answer:
  """Returns a function that answers with the student itself.

  Args:
    student: the student.
    num_beams: width of the beam search; 1 is greedy.
    own_dtype: compute in the student's dtype; else in float32.
  """
  config = student.model.config
  if not own_dtype:
    config = dataclasses.replace(
      config, dtype="float32", attention_implementation="xla"
    )
  generator = generation.Generator(
    encoder_decoder.EncoderDecoderModel(config),
    student.partitioner,
    decode_options(num_beams),
    batch_size=BATCH_SIZE,
  )

  def answer(inputs: Sequence[Sequence[int]], longest: int) -> Answers:
    # By default, TPUs and GPUs round the factors of products to fewer bits.
    precision = None if own_dtype else "highest"
    with jax.default_matmul_precision(precision):
      outputs, scores = generator(
        student.params, inputs, max_decode_length=longest
      )
    return Answers(outputs, scores)

  return answer


def decode_options(num_beams: int) -> DecodeOptions:
  """Greedy, or beam search as T5X does it."""
  if num_beams == 1:
    return DecodeOptions()
  return DecodeOptions(strategy="beam", num_beams=num_beams)


def answer_in_batches(decode: DecodeBatch) -> Answer:
  """Returns a function that answers inputs of similar lengths together.

  Args:
    decode: takes padded inputs, [batch, length] int64, a mask of the same
      shape that is 1 where there is no padding, and the longest output in
      tokens; returns tokens, [batch, at most the longest output] int, and
      log-probabilities, [batch] float.
  """

  def answer(inputs: Sequence[Sequence[int]], longest: int) -> Answers:
    outputs: list[list[int]] = [[] for _ in inputs]
    scores = np.zeros(len(inputs), np.float32)
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    for start in range(0, len(order), BATCH_SIZE):
      positions = order[start : start + BATCH_SIZE]
      tokens = np.zeros((len(positions), len(inputs[positions[-1]])), np.int64)
      mask = np.zeros_like(tokens)
      for row, position in enumerate(positions):
        length = len(inputs[position])
        tokens[row, :length] = inputs[position]
        mask[row, :length] = 1
      found, log_probs = decode(tokens, mask, longest)
      for row, position in enumerate(positions):
        outputs[position] = until_end(found[row].tolist())
        scores[position] = log_probs[row]
    return Answers(outputs, scores)

  return answer


def until_end(tokens: Sequence[int]) -> list[int]:
  """The tokens before the first end or padding id."""
  kept = []
  for token in tokens:
    if token in (vocabularies.EOS_ID, vocabularies.PAD_ID):
      break
    kept.append(int(token))
  return kept


def compare(
  student: Student, asked: Questions, ours: Answers, theirs: Answers
) -> Agreement:
  """Compares the answers to the same questions."""
  same = [a == b for a, b in zip(ours.outputs, theirs.outputs, strict=True)]
  difference = None
  if ours.scores is not None and theirs.scores is not None and any(same):
    difference = float(np.abs(ours.scores - theirs.scores)[same].max())
  labels, accuracy = None, None
  if asked.subtask.uses_label:
    reader = OutputReader.of(asked.subtask, student.options, student.vocabulary)
    our_labels, their_labels = (
      [
        reader.label(student.vocabulary.decode(output))
        for output in answers.outputs
      ]
      for answers in (ours, theirs)
    )
    labels = sum(a == b for a, b in zip(our_labels, their_labels, strict=True))
    if asked.evaluation is not None:
      right = [asked.evaluation.correct(x) for x in (our_labels, their_labels)]
      if right[0] is not None and right[1] is not None:
        accuracy = (float(np.mean(right[0])), float(np.mean(right[1])))
  return Agreement(
    subtask=asked.subtask.name,
    count=len(same),
    outputs=sum(same),
    labels=labels,
    score_difference=difference,
    accuracy=accuracy,
    from_dataset=asked.evaluation is not None,
  )


def check(
  agreement: Agreement, *, least: float, exact: bool, longest: int
) -> None:
  """Raises UserError for an exported student that answers differently.

  Args:
    agreement: the result of `compare`.
    least: the share that must agree.
    exact: whether log-probabilities must agree as well.
    longest: tokens of the longest output.
  """
  if agreement.share < least:
    raise UserError(
      f"the exported student answers differently ({agreement}); at least"
      f" {least:.0%} must be identical, so nothing was written: lower"
      " min_agreement to accept it",
      fields="min_agreement",
    )
  tolerance = _SCORE_TOLERANCE + _SCORE_TOLERANCE_PER_TOKEN * longest
  difference = agreement.score_difference
  if exact and difference is not None and not difference <= tolerance:
    raise UserError(
      f"the exported student's log-probabilities are off ({agreement}); at"
      f" most {tolerance:.2f} nats are rounding, so nothing was written: set"
      " check to 0 to accept it",
      fields="check",
    )
