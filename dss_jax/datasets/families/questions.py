"""The families, each with the reason why rationales should help it or not.

    name       question                                   rationales
    kinds      of how many kinds are three things?        should help
    fits       would two things fit in a holder?          should help
    odd_one    which thing is of another kind? (letter)   should help
    places     where is a thing? (the answer's word is    should not help
               in the question)
    sums       how many limbs now? (the answer is the     should not help
               equation)
    counts     do two claims about numbers follow?        open

A label that is a *many-to-one* function of several hidden facts says little
about each of them, and a rationale names each: there it should help. Where the
label itself says the fact (a place goes with a kind), or is the derivation (an
equation), a rationale repeats what the label taught. In `counts` the facts are
on the page, and what is hard is to bind numbers to names.

Every word stands between spaces, so that one vocabulary of whole words
(`families`) writes all of them.
"""

from __future__ import annotations

import random
from typing import Any

from dss_jax.datasets.families import lexicon
from dss_jax.datasets.families.generator import (
  Family,
  Question,
  choice,
  permutation,
  sample,
)
from dss_jax.datasets.families.lexicon import article

_LETTERS = ("a", "b", "c", "d")

_MANY = {"train": 8000, "validation": 2000, "test": 2500}
_FEWER = {"train": 4400, "validation": 1000, "test": 1350}


class Kinds(Family):
  """Of how many kinds are three things: one, two or three?"""

  name = "kinds"
  labels = ("one", "two", "three")
  # All three of one kind: 8 kinds * 8 * 7 * 6 inputs, of which a split's share
  # is used to about 85 %.
  max_records = _FEWER

  def form(self, rng: random.Random, label: str | None) -> list[int]:
    """Which of the drawn kinds each thing is of."""
    pattern = {"one": [0, 0, 0], "two": [0, 0, 1], "three": [0, 1, 2]}
    return permutation(rng, pattern[str(label)])

  def question(self, rng: random.Random, form: list[int]) -> Question:
    kinds = sample(rng, tuple(lexicon.KINDS), 3)
    left = {kind: permutation(rng, lexicon.KINDS[kind]) for kind in kinds}
    things = [left[kinds[index]].pop() for index in form]
    facts = " ; ".join(map(_kind_fact, things))
    return Question(
      input=f"of how many kinds are {lexicon.listing(things)} ?",
      label=("one", "two", "three")[len(set(form)) - 1],
      facts=facts,
      bare_facts=facts,
      meta={"kinds": sorted({lexicon.KIND_OF[thing] for thing in things})},
    )


class Fits(Family):
  """Would two things fit in a holder: yes or no?"""

  name = "fits"
  labels = ("yes", "no")
  # Two tiny things in a small holder: 8 * 7 * 6 inputs, a question in 24.
  max_records = _FEWER

  def form(self, rng: random.Random, label: str | None) -> tuple[str, Any]:
    """The holder's size, and the two things' sizes."""
    sizes = lexicon.SIZES
    holder = choice(rng, tuple(lexicon.HOLDERS_BY_SIZE))
    most = sizes.index(holder)
    pairs = [
      (first, second)
      for first in sizes
      for second in sizes
      if (max(sizes.index(first), sizes.index(second)) <= most)
      == (label == "yes")
    ]
    return holder, choice(rng, pairs)

  def question(self, rng: random.Random, form: tuple[str, Any]) -> Question:
    holder_size, thing_sizes = form
    holder = choice(rng, lexicon.HOLDERS_BY_SIZE[holder_size])
    first = choice(rng, lexicon.THINGS_BY_SIZE[thing_sizes[0]])
    second = first
    while second == first:
      second = choice(rng, lexicon.THINGS_BY_SIZE[thing_sizes[1]])
    facts = " ; ".join(
      f"{article(word)} {word} is {lexicon.SIZE_OF[word]}"
      for word in (first, second)
    )
    facts += f" ; {article(holder)} {holder} is for {holder_size}"
    largest = max(map(lexicon.SIZES.index, thing_sizes))
    return Question(
      input=(
        f"would {lexicon.listing([first, second])} fit in {article(holder)}"
        f" {holder} ?"
      ),
      label="yes" if largest <= lexicon.SIZES.index(holder_size) else "no",
      facts=facts,
      bare_facts=facts,
      meta={"sizes": [*thing_sizes, holder_size]},
    )


class OddOne(Family):
  """Which of four things is of another kind than the three others?"""

  name = "odd_one"
  labels = _LETTERS
  max_records = _MANY

  def form(self, rng: random.Random, label: str | None) -> int:
    """The position of the odd one."""
    del rng
    return _LETTERS.index(str(label))

  def question(self, rng: random.Random, form: int) -> Question:
    kind, other = sample(rng, tuple(lexicon.KINDS), 2)
    things = sample(rng, lexicon.KINDS[kind], 3)
    things.insert(form, choice(rng, lexicon.KINDS[other]))
    options = " ".join(
      f"( {letter} ) {thing}" for letter, thing in zip(_LETTERS, things)
    )
    facts = " ; ".join(map(_kind_fact, things))
    return Question(
      input=f"which one is of another kind ? {options}",
      label=_LETTERS[form],
      facts=facts,
      bare_facts=facts,
      meta={"kinds": [kind, other]},
    )


class Places(Family):
  """Where is a thing, out of four places that the question names?"""

  name = "places"
  labels = None
  max_records = _MANY

  def form(self, rng: random.Random, label: str | None) -> str:
    """The thing's kind."""
    del label
    return choice(rng, tuple(lexicon.KINDS))

  def question(self, rng: random.Random, form: str) -> Question:
    thing = choice(rng, lexicon.KINDS[form])
    place = lexicon.PLACE_OF_KIND[form]
    others = [name for name in lexicon.PLACE_OF_KIND.values() if name != place]
    choices = permutation(rng, [place, *sample(rng, others, 3)])
    return Question(
      input=(
        f"where is {article(thing)} {thing} ? choices : {' , '.join(choices)}"
      ),
      label=place,
      facts=f"{_kind_fact(thing)} ; of the choices only {place} has {form}",
      bare_facts=_kind_fact(thing),
      meta={"kind": form},
    )


class Sums(Family):
  """How many limbs do animals have now? The answer is the equation."""

  name = "sums"
  labels = None
  max_records = _MANY
  metrics = ("value_accuracy", "accuracy")

  def form(self, rng: random.Random, label: str | None) -> bool:
    """Whether more animals come."""
    del label
    return rng.random() < 0.5

  def question(self, rng: random.Random, form: bool) -> Question:
    animals = choice(rng, tuple(lexicon.LIMBS))
    limbs, each = lexicon.LIMBS[animals]
    name = choice(rng, lexicon.NAMES)
    more = 1 + int(rng.random() * 29)
    first = more + 1 + int(rng.random() * 29)
    verb, sign, noun = (
      ("receives", "+", "addition") if form else ("loses", "-", "subtraction")
    )
    fact = f"one of the {animals} has {each} {limbs}"
    return Question(
      input=(
        f"{name} has {first} {animals} and {verb} {more} {animals} . how many"
        f" {limbs} now ?"
      ),
      label=f"( {first} {sign} {more} ) * {each}",
      facts=f"{verb} means {noun} ; {fact}",
      bare_facts=fact,
    )


class Counts(Family):
  """Do two claims about how much two people have follow?"""

  name = "counts"
  labels = ("yes", "no")
  max_records = _MANY

  def form(self, rng: random.Random, label: str | None) -> tuple[bool, bool]:
    """Which of the two claims are true."""
    if label == "yes":
      return True, True
    return choice(rng, ((True, False), (False, True), (False, False)))

  def question(self, rng: random.Random, form: tuple[bool, bool]) -> Question:
    people = sample(rng, lexicon.NAMES, 2)
    things = choice(rng, ("coins", "cups", "eggs", "seeds"))
    numbers = [1 + int(rng.random() * 40) for _ in people]
    claims, facts, bare = [], [], []
    for person, number, true in zip(people, numbers, form):
      more = rng.random() < 0.5
      # A number on the side that makes the claim true, or on the other.
      distance = 1 + int(rng.random() * 9)
      below = more == true
      if below and number <= distance:
        distance = number
      bound = number - distance if below else number + distance - (not true)
      word = "more" if more else "less"
      claims.append(f"{person} has {word} than {bound}")
      holds = "is" if true else "is not"
      facts.append(f"{person} has {number} , which {holds} {word} than {bound}")
      bare.append(f"{person} has {number}")
    statement = " and ".join(
      f"{person} has {number} {things}"
      for person, number in zip(people, numbers)
    )
    return Question(
      input=f"{statement} . so {' and '.join(claims)} ?",
      label="yes" if all(form) else "no",
      facts=" ; ".join(facts),
      bare_facts=" ; ".join(bare),
      meta={"true": list(form)},
    )


FAMILIES = {
  family.name: family
  for family in (Kinds(), Fits(), OddOne(), Places(), Sums(), Counts())
}


def _kind_fact(thing: str) -> str:
  kind = lexicon.KIND_OF[thing]
  return f"{article(thing)} {thing} is {article(kind)} {kind}"
