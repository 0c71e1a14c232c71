"""A teacher that needs no model: taxonli's rules.

`TaxonliRules` answers taxonli's questions from their text, as a model that
knows the taxonomy would.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from dss_jax.base import checks
from dss_jax.datasets import taxonli
from dss_jax.datasets.records import Record
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
