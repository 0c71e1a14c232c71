"""taxonli: a small, procedural natural-language-inference dataset.

An offline stand-in for e-SNLI, so that the whole method can be run and
measured anywhere in minutes. Each input is a premise and a hypothesis over a
two-slot taxonomy of real words:

    A poodle is in a kitchen.  /  An animal is in a room.

In each slot (who, where) the two words stand in one of four relations:

    relation   premise   hypothesis   fact, one sentence form per relation
    same       poodle    poodle       poodle is poodle
    hypernym   poodle    animal       poodle is an animal
    hyponym    animal    poodle       not every animal is a poodle
    disjoint   poodle    tool         poodle is an animal, not a tool
    disjoint   tool      poodle       poodle is an animal, not a tool

Any disjoint slot makes a contradiction, else any hyponym makes it neutral,
else it is an entailment. The rationale states the fact of each slot: it can be
written, and the label read off, by knowing which word is which kind of thing.

What makes the task worth measuring:

* Labels are balanced, splits share no input, and sizes are nested; see
  `families/generator.py`, which draws the records.
* The words' surface does not give the label away. Given a label, the pairs of
  relations that make it are drawn evenly; then a classifier that sees only
  which words are repeated is right about half the time. One that also knows
  which words name kinds is right two times in three, the least possible where
  entailments and neutrals differ in just that. Disjoint words are therefore
  always one specific and one kind: two specific words, or two kinds, that
  differ would be disjoint at a glance.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from dss_jax.datasets.families import generator
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import Record

LABELS = ("entailment", "neutral", "contradiction")

# kind -> specific words. Kinds exclude each other within a slot. The taxonomy
# is the same for every seed.
THINGS: Mapping[str, tuple[str, ...]] = {
  "animal": ("poodle", "horse", "rabbit", "eagle", "salmon", "beetle"),
  "tool": ("hammer", "wrench", "drill", "chisel", "saw", "screwdriver"),
  "fruit": ("apple", "banana", "cherry", "mango", "peach", "plum"),
  "vegetable": ("carrot", "potato", "onion", "cabbage", "radish", "turnip"),
  "flower": ("rose", "tulip", "daisy", "orchid", "lily", "violet"),
  "garment": ("shirt", "coat", "skirt", "sweater", "jacket", "scarf"),
  "instrument": ("violin", "flute", "trumpet", "guitar", "harp", "cello"),
  "worker": ("nurse", "farmer", "lawyer", "plumber", "dentist", "baker"),
}
PLACES: Mapping[str, tuple[str, ...]] = {
  "room": ("kitchen", "bedroom", "bathroom", "attic", "cellar"),
  "shop": ("bakery", "pharmacy", "bookshop", "boutique", "supermarket"),
  "vehicle": ("bus", "taxi", "truck", "ferry", "ambulance"),
  "school": ("kindergarten", "academy", "college", "university", "seminary"),
  "container": ("box", "drawer", "basket", "suitcase", "barrel"),
  "landform": ("valley", "canyon", "crater", "cave", "gorge"),
}

RELATIONS = ("same", "hypernym", "hyponym", "disjoint")

# The rarest pair of relations has 48 * 30 = 1440 inputs and makes one record
# in twelve; these sizes use at most about 70 % of a split's share of them.
MAX_RECORDS = {"train": 8000, "validation": 1800, "test": 2400}

_INPUT = re.compile(
  r"An? (\w+) is in an? (\w+)\.</s>An? (\w+) is in an? (\w+)\."
)


def label_of(relations: Sequence[str]) -> str:
  """The label that the slots' relations make together."""
  if "disjoint" in relations:
    return "contradiction"
  return "neutral" if "hyponym" in relations else "entailment"


# Label -> the pairs of relations (who, where) that make it.
PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
  label: tuple(
    (first, second)
    for first in RELATIONS
    for second in RELATIONS
    if label_of((first, second)) == label
  )
  for label in LABELS
}

_KIND_OF = {
  word: kind
  for taxonomy in (THINGS, PLACES)
  for kind, words in taxonomy.items()
  for word in words
}


def load(split: str, options: DataOptions) -> list[Record]:
  """The records of a split, as the options say (see `DataOptions`)."""
  return generator.load(_Taxonli(), split, options)


def generate(
  split: str, num_records: int, *, seed: int = 0, control: str = "none"
) -> list[Record]:
  """Generates the first `num_records` records of a split.

  Args:
    split: "train", "validation" or "test".
    num_records: at most MAX_RECORDS[split].
    seed: another seed draws other records from the same taxonomy.
    control: what stands in the rationale; see `generator.generate`. The facts
      of "facts_only" lack the words *not* and *not every*.

  Returns:
    Records with one rationale each, source "taxonli". `meta["relations"]`
    holds the relations of the two slots.

  Raises:
    UserError: for an unknown split or control, or too many records.
  """
  return generator.generate(
    _Taxonli(), split, num_records, seed=seed, control=control
  )


def read_input(text: str) -> list[tuple[str, str]] | None:
  """The slots of an input, its (premise, hypothesis) words; None if none."""
  match = _INPUT.fullmatch(text)
  if match is None:
    return None
  return [(match[1], match[3]), (match[2], match[4])]


def relation_of(premise: str, hypothesis: str) -> str | None:
  """The relation of two words of one slot; None if no input has them."""
  for taxonomy in (THINGS, PLACES):
    words = {word for kind in taxonomy for word in (kind, *taxonomy[kind])}
    if premise not in words or hypothesis not in words:
      continue
    if premise == hypothesis:
      return "same"
    if _KIND_OF.get(premise) == hypothesis:
      return "hypernym"
    if _KIND_OF.get(hypothesis) == premise:
      return "hyponym"
    # Two kinds, or two specific words, are never drawn.
    both = (premise in _KIND_OF) == (hypothesis in _KIND_OF)
    return None if both else "disjoint"
  return None


def explain(relations: Sequence[str], words: Sequence[tuple[str, str]]) -> str:
  """The rationale for words in these relations, as records have it."""
  return _rationale(relations, words, polarity=True)


def claim(relation: str, premise: str, hypothesis: str) -> str:
  """What a teacher says who takes two words to be in a relation.

  Right claims are the facts of `explain`. Wrong ones have their form.
  """
  if relation_of(premise, hypothesis) == relation:
    return _fact(relation, premise, hypothesis, polarity=True)
  if relation == "same":
    return f"{premise} is {hypothesis}"
  if relation == "hypernym":
    return f"{premise} is {_article(hypothesis)} {hypothesis}"
  if relation == "hyponym":
    return f"not every {premise} is {_article(hypothesis)} {hypothesis}"
  return f"{premise} is not {_article(hypothesis)} {hypothesis}"


class _Taxonli(generator.Family):
  """taxonli as a family of `generator`."""

  name = "taxonli"
  labels = LABELS
  max_records = MAX_RECORDS
  options = "taxonli"

  def form(self, rng: random.Random, label: str | None) -> tuple[str, str]:
    """The relations of the two slots."""
    return generator.choice(rng, PAIRS[str(label)])

  def question(
    self, rng: random.Random, form: tuple[str, str]
  ) -> generator.Question:
    who, where = (
      _draw_words(rng, taxonomy, relation)
      for taxonomy, relation in zip((THINGS, PLACES), form)
    )
    return generator.Question(
      input=f"{_sentence(who[0], where[0])}</s>{_sentence(who[1], where[1])}",
      label=label_of(form),
      facts=_rationale(form, (who, where), polarity=True),
      bare_facts=_rationale(form, (who, where), polarity=False),
      meta={"relations": list(form)},
    )


def _draw_words(
  rng: random.Random, taxonomy: Mapping[str, tuple[str, ...]], relation: str
) -> tuple[str, str]:
  """A (premise, hypothesis) pair of words in the given relation."""
  kinds = tuple(taxonomy)
  specific = tuple(word for words in taxonomy.values() for word in words)
  if relation == "same":
    word = generator.choice(rng, kinds + specific)
    return word, word
  word = generator.choice(rng, specific)
  kind = _KIND_OF[word]
  if relation == "hypernym":
    return word, kind
  if relation == "hyponym":
    return kind, word
  other = generator.choice(rng, tuple(name for name in kinds if name != kind))
  return (word, other) if rng.random() < 0.5 else (other, word)


def _rationale(
  relations: Sequence[str],
  words: Sequence[tuple[str, str]],
  *,
  polarity: bool,
) -> str:
  return "; ".join(
    _fact(relation, *pair, polarity=polarity)
    for relation, pair in zip(relations, words)
  )


def _fact(
  relation: str, premise: str, hypothesis: str, *, polarity: bool
) -> str:
  """The deciding fact of one slot."""
  if relation == "same":
    return f"{premise} is {hypothesis}"
  word, kind = premise, hypothesis
  if word not in _KIND_OF:
    word, kind = kind, word
  if relation == "hyponym" and polarity:
    return f"not every {kind} is {_article(word)} {word}"
  fact = f"{word} is {_article(_KIND_OF[word])} {_KIND_OF[word]}"
  if relation == "disjoint" and polarity:
    fact += f", not {_article(kind)} {kind}"
  return fact


def _sentence(who: str, where: str) -> str:
  first = f"{_article(who)} {who} is in {_article(where)} {where}."
  return first[0].upper() + first[1:]


def _article(word: str) -> str:
  # "university" starts with a consonant's sound.
  return "an" if word[0] in "aeio" else "a"
