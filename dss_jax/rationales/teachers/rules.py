"""Teachers that need no model: rules, and generators with worked solutions.

`TaxonliRules` answers taxonli's questions from their text, as a model that
knows the taxonomy would. `reasoning_gym_records` draws problems together with
their solutions from the package `reasoning-gym` (extra `teacher`).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.datasets import taxonli
from dss_jax.datasets.records import Rationale, Record
from dss_jax.rationales import prompt_files
from dss_jax.rationales.prompts import Prompt
from dss_jax.rationales.teacher_requests import Completion


class TaxonliRules:
  """Writes taxonli's rationales and labels from the input text alone.

  Attributes:
    name: "rules".
    model: says that it is taxonli's, and how often it errs.
    weight: weight of its rationales.
  """

  def __init__(
    self,
    *,
    error_rate: float = 0.0,
    seed: int = 0,
    prompt: Prompt | None = None,
    weight: float = 1.0,
  ):
    """A rule teacher, which may err.

    Args:
      error_rate: share of inputs, 0 to 1, that it answers wrongly. It then
        takes the words of a slot (of both, where one is not enough) to be in
        another relation, so that the label changes, and argues for that label.
      seed: which inputs these are; what an input is answered depends on
        nothing else.
      prompt: the prompt in whose form it answers; the shipped one if None.
      weight: weight of its rationales relative to other teachers'.

    Raises:
      UserError: if the error rate is no share.
    """
    checks.in_range("error_rate", error_rate, 0, 1)
    self.name = "rules"
    self.model = "taxonli-rules"
    if error_rate:
      self.model += f"-error-{error_rate:g}-seed-{seed}"
    self.weight = weight
    self._error_rate = error_rate
    self._seed = seed
    self._prompt = prompt or prompt_files.load("taxonli")

  def answer(self, record: Record) -> Completion | None:
    """Rationale and label; None for what is no input of taxonli."""
    words = taxonli.read_input(record.input)
    if words is None:
      return None
    relations = [taxonli.relation_of(*pair) for pair in words]
    if None in relations:
      return None
    known = [relation for relation in relations if relation is not None]
    facts = taxonli.explain(known, words)
    label = taxonli.label_of(known)
    rng = _rng(self._seed, record.input)
    if rng.random() < self._error_rate:
      facts, label = _wrong(rng, known, words)
    text = self._prompt.output_text(facts, label)
    return Completion(text, model=self.model)


def _wrong(
  rng: random.Random,
  relations: Sequence[str],
  words: Sequence[tuple[str, str]],
) -> tuple[str, str]:
  """Facts and label with slots misjudged, as few as change the label."""
  right = taxonli.label_of(relations)
  wrong = [
    pair
    for label, pairs in taxonli.PAIRS.items()
    if label != right
    for pair in pairs
  ]

  def distance(pair: tuple[str, str]) -> int:
    return sum(a != b for a, b in zip(pair, relations))

  least = min(map(distance, wrong))
  nearest = [pair for pair in wrong if distance(pair) == least]
  taken = nearest[int(rng.random() * len(nearest))]
  facts = [
    taxonli.claim(relation, *pair) for relation, pair in zip(taken, words)
  ]
  return "; ".join(facts), taxonli.label_of(taken)


def _rng(seed: int, text: str) -> random.Random:
  digest = hashlib.sha256(f"taxonli-rules:{seed}:{text}".encode()).digest()
  return random.Random(int.from_bytes(digest, "big"))


# --- reasoning-gym -----------------------------------------------------------


def _worked_steps(metadata: Mapping[str, Any]) -> str | None:
  """The solution in words, without the answer that it ends with, "#### 96"."""
  return str(metadata["answer_cot"]).partition("####")[0].strip()


def _states(metadata: Mapping[str, Any]) -> str | None:
  """Each state of the text that is rewritten; None if nothing happens."""
  states = metadata["states"]
  return " -> ".join(map(str, states)) if len(states) > 1 else None


# The sets of the package that come with the steps of a solution; the others give
# only the answer.
_STEPS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
  "gsm_symbolic": _worked_steps,
  "string_manipulation": _states,
}
REASONING_GYM_SETS = tuple(_STEPS)


def reasoning_gym_records(
  name: str, num_records: int, *, seed: int = 0
) -> Iterator[Record]:
  """Draws problems with worked solutions from the package `reasoning-gym`.

  Args:
    name: one of REASONING_GYM_SETS: "gsm_symbolic" (word problems of primary
      school in a hundred templates; the label is a number) or
      "string_manipulation" (rewriting a text by rules).
    num_records: how many; problems whose solution is missing or does not end
      in their own answer are left out of them.
    seed: another seed draws other problems.

  Yields:
    Records with one rationale each, source "reasoning-gym". Draws may repeat.

  Raises:
    UserError: for an unknown set, or if the package is missing.
  """
  if name not in _STEPS:
    raise UserError(
      f"no worked solutions in reasoning-gym's {name!r}; allowed:"
      f" {', '.join(REASONING_GYM_SETS)}"
    )
  checks.in_range("num_records", num_records, 1)
  try:
    import reasoning_gym
  except ImportError:
    raise UserError(
      f"{name} needs a package: pip install 'dss_jax[teacher]', or"
      " reasoning-gym"
    ) from None
  # Left-out problems are few; more than enough are on offer, drawn as needed.
  drawn = reasoning_gym.create_dataset(
    name, size=20 * num_records + 100, seed=seed
  )
  count = 0
  for number in range(len(drawn)):
    record = _gym_record(name, number, seed, drawn[number])
    if record is not None:
      count += 1
      yield record
    if count == num_records:
      return


def _gym_record(
  name: str, number: int, seed: int, item: Mapping[str, Any]
) -> Record | None:
  metadata = item["metadata"]
  steps, label = _STEPS[name](metadata), str(item["answer"])
  if not steps or not _ends_in(name, metadata, label):
    return None
  return Record(
    id=f"{name}-{seed}-{number}",
    input=str(item["question"]).strip(),
    label=label,
    rationales=(Rationale(steps, label, "reasoning-gym"),),
  )


def _ends_in(name: str, metadata: Mapping[str, Any], label: str) -> bool:
  """Whether the steps arrive at the label."""
  if name == "string_manipulation":
    return str(metadata["states"][-1]) == label
  end = str(metadata["answer_cot"]).rpartition("####")[2].strip()
  try:
    return math.isclose(float(end.replace(",", "")), float(label))
  except ValueError:
    return False
