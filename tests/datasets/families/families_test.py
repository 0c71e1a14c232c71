"""Generated families: true facts, honest labels, splits and controls."""

import collections
import re

import pytest

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.datasets import arithmetic, families
from dss_jax.datasets.families import lexicon
from dss_jax.datasets.options import CONTROLS, DataOptions

NAMES = tuple(families.FAMILIES)


def _generate(name, split="train", number=300, **options):
  return families.generate(families.FAMILIES[name], split, number, **options)


# --- each label, worked out again from the input or from the rationale alone ---


def _kinds(rationale):
  """The kind of each thing that a rationale of `kinds` or `odd_one` names."""
  return re.findall(r"an? \w+ is an? (\w+)", rationale)


def _kinds_label(record):
  number = len(set(_kinds(record.rationales[0].text)))
  return {1: "one", 2: "two", 3: "three"}[number]


def _odd_one_label(record):
  kinds = _kinds(record.rationales[0].text)
  (odd,) = [i for i, kind in enumerate(kinds) if kinds.count(kind) == 1]
  return "abcd"[odd]


def _fits_label(record):
  sizes = re.findall(r"\w+ is (?:for )?(\w+)", record.rationales[0].text)
  first, second, holder = map(lexicon.SIZES.index, sizes)
  return "yes" if max(first, second) <= holder else "no"


def _places_label(record):
  (thing,) = re.findall(r"where is an? (\w+) \?", record.input)
  choices = record.input.partition(" : ")[2].split(" , ")
  assert len(set(choices)) == 4
  (kind,) = [kind for kind, words in lexicon.KINDS.items() if thing in words]
  place = lexicon.PLACE_OF_KIND[kind]
  assert place in choices
  return place


def _sums_label(record):
  ((first, animals, verb, second),) = re.findall(
    r"\w+ has (\d+) (\w+) and (\w+) (\d+)", record.input
  )
  number = int(first) + {"receives": 1, "loses": -1}[verb] * int(second)
  limbs = number * {"starfish": 5, "spiders": 8, "dogs": 4, "hens": 2}.get(
    animals, 6
  )
  assert arithmetic.same_value(record.label, str(limbs))
  return record.label


def _counts_label(record):
  facts = dict(re.findall(r"(\w+) has (\d+) \w+ (?:and|\.)", record.input))
  claims = re.findall(r"(\w+) has (more|less) than (\d+)", record.input)
  assert [name for name, _, _ in claims] == list(facts)
  true = [
    (int(facts[name]) > int(bound)) == (word == "more")
    and int(facts[name]) != int(bound)
    for name, word, bound in claims
  ]
  stated = [
    " is not " not in fact for fact in record.rationales[0].text.split(" ; ")
  ]
  assert stated == true
  return "yes" if all(true) else "no"


LABEL_OF = {
  "kinds": _kinds_label,
  "fits": _fits_label,
  "odd_one": _odd_one_label,
  "places": _places_label,
  "sums": _sums_label,
  "counts": _counts_label,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_label_follows_from_the_facts(name):
  for record in _generate(name):
    assert LABEL_OF[name](record) == record.label, record.input


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_things_is_true(name):
  for record in _generate(name, number=100):
    text = record.rationales[0].text
    for word, kind in re.findall(r"an? (\w+) is an? (\w+)", text):
      assert word in lexicon.KINDS[kind]
    for word, size in re.findall(r"an? (\w+) is (\w+)(?= ;)", text):
      if name == "fits":
        assert word in lexicon.THINGS_BY_SIZE[size]


def test_no_word_has_two_kinds_or_two_sizes():
  words = [word for words in lexicon.KINDS.values() for word in words]
  assert len(set(words)) == len(words) == 64
  sized = [word for words in lexicon.THINGS_BY_SIZE.values() for word in words]
  assert len(set(sized)) == len(sized) == 40


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_balanced_and_smaller_sets_are_prefixes(name):
  records = _generate(name, number=240)
  labels = families.FAMILIES[name].labels
  if labels is not None:
    counts = collections.Counter(record.label for record in records[:60])
    assert counts == dict.fromkeys(labels, 60 // len(labels))
  assert _generate(name, number=90) == records[:90]
  assert _generate(name, number=90, seed=1) != records[:90]


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_input_whatever_the_seed(name):
  inputs = {
    split: {
      record.input
      for seed in (0, 1)
      for record in _generate(name, split, 400, seed=seed)
    }
    for split in ("train", "validation", "test")
  }
  assert not inputs["train"] & inputs["validation"]
  assert not inputs["train"] & inputs["test"]
  assert not inputs["validation"] & inputs["test"]


@pytest.mark.parametrize("name", NAMES)
def test_the_most_records_of_every_split_can_be_drawn(name):
  family = families.FAMILIES[name]
  for split in ("validation", "test"):
    most = family.max_records[split]
    assert len({r.input for r in _generate(name, split, most)}) == most
    with pytest.raises(UserError, match=f"generated_num_{split}"):
      _generate(name, split, most + 1)


@pytest.mark.parametrize("name", NAMES)
def test_controls_change_rationales_and_nothing_else(name):
  plain = _generate(name, number=130)
  facts = [record.rationales[0].text for record in plain]
  for control in CONTROLS:
    records = _generate(name, number=130, control=control)
    assert [(r.input, r.label) for r in records] == [
      (r.input, r.label) for r in plain
    ]
    written = [record.rationales[0].text for record in records]
    if control == "copy":
      assert written == [record.input for record in plain]
    elif control == "shuffled":
      assert sorted(written) == sorted(facts)
      moved = sum(a != b for a, b in zip(written, facts))
      assert moved > 120
    elif control == "facts_only":
      assert all(" not " not in f" {text} " for text in written)


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_writes_every_word_as_one_piece(name):
  vocabulary = vocabularies.from_name(vocabularies.default_name(name))
  for record in _generate(name, number=1500, seed=4):
    for text in (record.input, str(record.label), record.rationales[0].text):
      ids = vocabulary.encode(text)
      assert len(ids) == len(text.split())
      assert vocabulary.decode(ids) == text


def test_families_are_datasets_with_options():
  records = families.load(
    families.FAMILIES["kinds"],
    "train",
    DataOptions(
      generated_num_train=30, generated_seed=2, generated_control="copy"
    ),
  )
  assert list(records) == _generate("kinds", number=30, seed=2, control="copy")
  with pytest.raises(UserError, match="generated_control is 'none of these'"):
    DataOptions(generated_control="none of these")
