"""taxonli: deterministic, balanced, leak-free, and not solvable at a glance."""

import collections
import hashlib
import itertools
import re

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, load_split, taxonli

TRAIN = taxonli.generate("train", 3000)
TEST = taxonli.generate("test", 1000)
KIND_OF = {
  word: kind
  for taxonomy in (taxonli.THINGS, taxonli.PLACES)
  for kind, words in taxonomy.items()
  for word in words
}


def _words(record):
  """((who, where) of the premise, (who, where) of the hypothesis)."""
  pairs = re.findall(r"An? (\w+) is in an? (\w+)\.(?:</s>|$)", record.input)
  assert len(pairs) == 2
  return pairs


def _digest(records):
  text = repr([(r.id, r.input, r.label, r.rationales[0].text) for r in records])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_taxonomy():
  assert [len(words) for words in taxonli.THINGS.values()] == [6] * 8
  assert [len(words) for words in taxonli.PLACES.values()] == [5] * 6
  words = [
    word
    for taxonomy in (taxonli.THINGS, taxonli.PLACES)
    for kind, specific in taxonomy.items()
    for word in (kind, *specific)
  ]
  assert len(set(words)) == len(words) == 48 + 8 + 30 + 6


def test_the_same_records_everywhere():
  """Frozen: any Python and NumPy must give these records."""
  assert _digest(taxonli.generate("train", 300)) == "a2be7210ac08a6e9"
  assert _digest(taxonli.generate("test", 300, seed=5)) == "4e2e6cabbd0438a7"
  assert TRAIN[0].input == (
    "A turnip is in a landform.</s>A turnip is in a cave."
  )


def test_smaller_sets_are_prefixes():
  assert taxonli.generate("train", 501) == TRAIN[:501]
  full = DataOptions()
  assert len(load_split("taxonli", "train", options=full)) == 4000
  small = DataOptions(train_fraction=0.125)
  assert load_split("taxonli", "train", options=small) == TRAIN[:500]
  assert len(load_split("taxonli", "validation", options=small)) == 500
  assert len(load_split("taxonli", "test", options=small)) == 1000


@pytest.mark.parametrize("size", [3, 99, 500, 3000])
def test_labels_are_balanced_in_every_prefix(size):
  counts = collections.Counter(record.label for record in TRAIN[:size])
  assert max(counts.values()) - min(counts.values()) <= 1
  assert len(counts) == 3


def test_pairs_of_relations_are_even_within_a_label():
  counts = collections.Counter(
    (record.label, tuple(record.meta["relations"])) for record in TRAIN
  )
  assert len(counts) == 16
  for (label, _), count in counts.items():
    expected = 1000 / len(taxonli.PAIRS[label or ""])
    assert abs(count - expected) < 0.3 * expected


def test_labels_follow_from_the_words():
  """An independent reading of the rules, from the text alone."""
  for record in TRAIN + TEST:
    relations = []
    for premise, hypothesis in zip(*_words(record)):
      if premise == hypothesis:
        relations.append("same")
      elif KIND_OF.get(premise) == hypothesis:
        relations.append("hypernym")
      elif KIND_OF.get(hypothesis) == premise:
        relations.append("hyponym")
      else:
        relations.append("disjoint")
    assert relations == record.meta["relations"]
    if "disjoint" in relations:
      assert record.label == "contradiction"
    elif "hyponym" in relations:
      assert record.label == "neutral"
    else:
      assert record.label == "entailment"


def test_no_input_is_in_two_splits_whatever_the_seeds():
  seen = {}
  for split, seed in itertools.product(taxonli.MAX_RECORDS, (0, 1, 2)):
    records = taxonli.generate(split, 700, seed=seed)
    inputs = {record.input for record in records}
    assert len(inputs) == 700
    for text in inputs:
      assert seen.setdefault(text, split) == split


def test_seeds_draw_other_records_from_the_same_taxonomy():
  other = taxonli.generate("train", 100, seed=1)
  assert other != TRAIN[:100]
  known = set(KIND_OF) | set(KIND_OF.values())
  for record in other:
    assert {word for pair in _words(record) for word in pair} <= known


# --- what the surface gives away ---------------------------------------------


def _accuracy(pattern):
  """Test accuracy of the best classifier that sees `pattern(record)` only."""
  counts = collections.defaultdict(collections.Counter)
  for record in TRAIN:
    counts[pattern(record)][record.label] += 1
  best = {seen: labels.most_common(1)[0][0] for seen, labels in counts.items()}
  correct = sum(best.get(pattern(r)) == r.label for r in TEST)
  return correct / len(TEST)


def _repeated(record):
  premise, hypothesis = _words(record)
  return tuple(p == h for p, h in zip(premise, hypothesis))


def _levels(record):
  return tuple(word in KIND_OF for pair in _words(record) for word in pair)


def test_the_surface_does_not_solve_it():
  assert _accuracy(lambda r: None) == pytest.approx(1 / 3, abs=0.02)
  # Which words are repeated.
  assert 0.40 < _accuracy(_repeated) < 0.56
  # Articles besides, and the length of the sentences.
  assert (
    _accuracy(
      lambda r: (_repeated(r), re.findall(r"\b[Aa]n?\b", r.input).count("an"))
    )
    < 0.58
  )
  # One sentence without the other.
  for part in (0, 1):
    assert _accuracy(lambda r, part=part: r.input.split("</s>")[part]) < 0.52
  # Which words name kinds, which is itself half of the taxonomy: at most two
  # in three (within the sampling error of 1,000 records, 1.5 points).
  assert _accuracy(lambda r: (_repeated(r), _levels(r))) < 0.70
  # Who knows the taxonomy is always right.
  assert _accuracy(lambda r: tuple(r.meta["relations"])) == 1.0


# --- rationales and controls -------------------------------------------------

FORMS = {
  "same": r"(\w+) is \1",
  "hypernym": r"\w+ is an? \w+",
  "hyponym": r"not every \w+ is an? \w+",
  "disjoint": r"\w+ is an? \w+, not an? \w+",
}


def test_rationales_have_one_form_per_relation_and_are_true():
  for record in TRAIN:
    (rationale,) = record.rationales
    assert (rationale.source, rationale.label) == ("taxonli", record.label)
    premise, hypothesis = _words(record)
    facts = rationale.text.split("; ")
    for fact, relation, *pair in zip(
      facts, record.meta["relations"], premise, hypothesis
    ):
      assert re.fullmatch(FORMS[relation], fact)
      words = re.sub(r"\b(is|an?|not every|not)\b", " ", fact).split()
      words = [word.strip(",") for word in words]
      if relation == "same":
        assert set(words) == set(pair)
      elif relation == "hyponym":
        assert KIND_OF[words[1]] == words[0]
        assert words == pair
      else:
        assert KIND_OF[words[0]] == words[1]
        assert words[0] in pair
        assert words[-1] in pair
        assert len(words) == (2 if relation == "hypernym" else 3)


def test_articles():
  text = " ".join(r.input + " " + r.rationales[0].text for r in TRAIN + TEST)
  assert not re.search(r"\b[Aa] [aeio]", text)
  assert not re.search(r"\b[Aa]n [^aeio]", text)
  assert "a university" in text
  assert "an academy" in text


def test_facts_only_has_no_polarity_and_the_same_records():
  control = taxonli.generate("train", 600, control="facts_only")
  for record, plain in zip(control, TRAIN):
    assert (record.input, record.label) == (plain.input, plain.label)
    text = record.rationales[0].text
    assert "not" not in text.split()
    assert "every" not in text
    for fact in text.split("; "):
      assert re.fullmatch(r"(\w+) is (\1|an? \w+)", fact)
  # A disjoint slot reads like a hypernym, so no form names the label.
  facts = collections.Counter(
    re.sub(r"\w+", "w", record.rationales[0].text) for record in control
  )
  assert set(facts) == {"w w w; w w w", "w w w; w w w w", "w w w w; w w w",
                        "w w w w; w w w w"}  # fmt: skip


def test_shuffled_gives_every_record_the_facts_of_another():
  for size in (2, 59, 60, 61, 121, 600):
    control = taxonli.generate("train", size, control="shuffled")
    plain = TRAIN[:size]
    assert (
      sorted(r.rationales[0].text for r in control)
      == sorted(r.rationales[0].text for r in plain)
      or size % 60 == 1
    )
    for record, own in zip(control, plain):
      assert (record.input, record.label) == (own.input, own.label)
      assert record.rationales[0].label == own.label
    donors = [
      {i for i, other in enumerate(plain)
       if other.rationales[0].text == record.rationales[0].text}
      for record in control
    ]  # fmt: skip
    assert all(donor - {i} for i, donor in enumerate(donors))
    same = sum(
      a.rationales[0].text == b.rationales[0].text
      for a, b in zip(control, plain)
    )
    assert same <= size // 100
  full = taxonli.generate("train", 600, control="shuffled")
  assert taxonli.generate("train", 120, control="shuffled") == full[:120]


def test_copy_is_the_input():
  for record in taxonli.generate("train", 30, control="copy"):
    assert record.rationales[0].text == record.input


def test_the_largest_sizes_can_be_drawn():
  for split, size in taxonli.MAX_RECORDS.items():
    records = taxonli.generate(split, size)
    assert len({record.input for record in records}) == size


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: taxonli.generate("dev", 1), "no split 'dev'; allowed: train"),
    (
      lambda: taxonli.generate("train", 0),
      "taxonli_num_train is 0; .* 1 to 8000",
    ),
    (lambda: taxonli.generate("train", 8001), "taxonli_num_train"),
    (
      lambda: taxonli.generate("train", 1, control="none at all"),
      "'none at all'; it must be one of none, facts_only",
    ),
  ],
)
def test_wrong_use(call, message):
  with pytest.raises(UserError, match=message):
    call()
