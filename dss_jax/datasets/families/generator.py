"""The generator of all families: balance, splits, nested sizes, controls.

* Labels of a closed set are balanced in every prefix whose length is a multiple
  of their number, and a smaller training set is the prefix of a larger one.
* No input is in two splits, whatever the seeds and sizes: an input's split is
  decided by its hash.
* Controls put something else in the rationale's place, so that a gain can be
  traced to what rationales say.

Draws use only `random.Random.random()`, whose sequence for a seed Python keeps
across versions, so the same arguments give the same records everywhere.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.datasets.options import CONTROLS, DataOptions
from dss_jax.datasets.records import Rationale, Record

# Percent of all inputs that belong to each split, by hash.
SHARES = {"train": 65, "validation": 15, "test": 20}

# Records that a shuffled rationale moves among. Small, so that a prefix of the
# training set still holds (nearly) all rationales of its own records.
_SHUFFLE_BLOCK = 60

_MAX_DRAWS = 100_000


@dataclasses.dataclass(frozen=True)
class Question:
  """One input with its answer and the reasons.

  Attributes:
    input: what the student reads.
    label: the answer.
    facts: the rationale.
    bare_facts: the rationale of the control "facts_only": the same facts
      without words that come close to naming the label.
    meta: what analyses may group by.
  """

  input: str
  label: str
  facts: str
  bare_facts: str
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Family(abc.ABC):
  """A procedural dataset.

  Attributes:
    name: of the dataset, and the source of its rationales.
    labels: the closed set of labels; None if they are open.
    max_records: the most records of each split.
    options: beginning of the names of its options in `DataOptions`.
    metrics: how labels are compared, see `DatasetSpec.metrics`.
  """

  name: str
  labels: tuple[str, ...] | None
  max_records: Mapping[str, int]
  options: str = "generated"
  metrics: tuple[str, ...] = ("accuracy",)

  @abc.abstractmethod
  def form(self, rng: random.Random, label: str | None) -> Any:
    """Draws what makes a question of this label, words aside."""

  @abc.abstractmethod
  def question(self, rng: random.Random, form: Any) -> Question:
    """Draws the words of a question of this form."""


def load(family: Family, split: str, options: DataOptions) -> list[Record]:
  """The records of a split, as the options say (see `DataOptions`)."""
  return generate(
    family,
    split,
    getattr(options, f"{family.options}_num_{split}"),
    seed=getattr(options, f"{family.options}_seed"),
    control=getattr(options, f"{family.options}_control"),
  )


def generate(
  family: Family,
  split: str,
  num_records: int,
  *,
  seed: int = 0,
  control: str = "none",
) -> list[Record]:
  """Generates the first `num_records` records of a split.

  Args:
    family: what to generate.
    split: "train", "validation" or "test".
    num_records: at most `family.max_records[split]`.
    seed: another seed draws other records from the same words.
    control: what stands in the rationale. "none": the facts. "facts_only": the
      facts without words that come close to naming the label. "shuffled": the
      facts of another record. "copy": the input.

  Returns:
    Records with one rationale each, whose source is the family's name.

  Raises:
    UserError: for an unknown split or control, or too many records.
  """
  if split not in SHARES:
    raise UserError(
      f"{family.name} has no split {split!r}; allowed: {', '.join(SHARES)}"
    )
  checks.one_of(f"DataOptions.{family.options}_control", control, CONTROLS)
  most = family.max_records[split]
  if not 1 <= num_records <= most:
    field = f"{family.options}_num_{split}"
    raise UserError(
      f"{field} is {num_records}; for {family.name} it must be from 1 to {most}",
      fields=f"DataOptions.{field}",
    )
  questions = _draw(family, split, num_records, seed)
  facts = [question.facts for question in questions]
  if control == "facts_only":
    facts = [question.bare_facts for question in questions]
  elif control == "shuffled":
    facts = _exchange(facts, _rng(family.name, "exchange", split, seed))
  elif control == "copy":
    facts = [question.input for question in questions]
  return [
    Record(
      id=f"{split}-{number}",
      input=question.input,
      label=question.label,
      rationales=(Rationale(facts[number], question.label, family.name),),
      meta=dict(question.meta),
    )
    for number, question in enumerate(questions)
  ]


def split_of(text: str) -> str:
  """The only split that the input `text` may appear in."""
  digest = hashlib.sha256(text.encode()).digest()
  percent = int.from_bytes(digest[:8], "big") % 100
  for split, share in SHARES.items():
    if percent < share:
      return split
    percent -= share
  raise AssertionError("the shares add up to 100")


def choice(rng: random.Random, values: Sequence):
  """One of `values`.

  Not rng.choice: only random() is promised to stay the same.
  """
  return values[int(rng.random() * len(values))]


def permutation(rng: random.Random, values: Sequence) -> list:
  """`values` in a drawn order."""
  return sorted(values, key=lambda _: rng.random())


def sample(rng: random.Random, values: Sequence, number: int) -> list:
  """`number` different ones of `values`, in a drawn order."""
  return permutation(rng, values)[:number]


def _draw(
  family: Family, split: str, num_records: int, seed: int
) -> list[Question]:
  rng = _rng(family.name, "records", split, seed)
  used: set[str] = set()
  questions: list[Question] = []
  labels: list[str] = []
  while len(questions) < num_records:
    label = None
    if family.labels is not None:
      labels = labels or permutation(rng, family.labels)
      label = labels.pop()
    form = family.form(rng, label)
    for _ in range(_MAX_DRAWS):
      question = family.question(rng, form)
      if question.input not in used and split_of(question.input) == split:
        break
    else:
      raise AssertionError("max_records leaves unused inputs")
    used.add(question.input)
    questions.append(question)
  return questions


def _exchange(facts: list[str], rng: random.Random) -> list[str]:
  """Gives every record the facts of another one of its block."""
  exchanged: list[str] = []
  for start in range(0, len(facts), _SHUFFLE_BLOCK):
    # Each block's own size, drawn whether or not it is complete, keeps the
    # full blocks of a longer set equal to those of a shorter one.
    shift = 1 + int(rng.random() * (_SHUFFLE_BLOCK - 1))
    block = facts[start : start + _SHUFFLE_BLOCK]
    if len(block) > 1 and shift % len(block) == 0:
      shift = 1
    shift %= len(block)
    exchanged += block[shift:] + block[:shift]
  if len(facts) > 1 and len(facts) % _SHUFFLE_BLOCK == 1:
    exchanged[-1] = facts[0]  # It is alone in its block.
  return exchanged


def _rng(*key: object) -> random.Random:
  digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
  return random.Random(int.from_bytes(digest, "big"))
