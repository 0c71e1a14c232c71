"""The teacher without a model: taxonli's rules."""

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets import taxonli
from dss_jax.datasets.records import Record
from dss_jax.rationales import completion_parsing, prompt_files
from dss_jax.rationales.teachers import rules

RECORDS = taxonli.generate("train", 600, seed=3)
PROMPT = prompt_files.load("taxonli")


def _parsed(teacher, record):
  completion = teacher.answer(record)
  assert completion is not None
  assert completion.model == teacher.model
  return completion_parsing.parse(PROMPT, record, completion)


def test_rules_write_the_generators_rationales():
  teacher = rules.TaxonliRules()
  for record in RECORDS:
    # Only the text of the record is read.
    parsed = _parsed(teacher, Record("x", record.input))
    assert parsed == completion_parsing.Parsed(
      record.rationales[0].text, record.label
    )


def test_errors_come_at_their_rate_and_in_the_same_form():
  teacher = rules.TaxonliRules(error_rate=0.3, seed=1)
  parsed = [_parsed(teacher, record) for record in RECORDS]
  assert all(p.status == "ok" and p.label in taxonli.LABELS for p in parsed)
  wrong = [
    (record, p) for record, p in zip(RECORDS, parsed) if p.label != record.label
  ]
  # 600 draws at 0.3: five standard deviations are 56.
  assert abs(len(wrong) - 180) < 56
  for record, p in wrong:
    facts = record.rationales[0].text.split("; ")
    claims = p.rationale.split("; ")
    # Two disjoint slots make one contradiction: both must be misjudged.
    needed = {"disjoint disjoint": 2, "hyponym hyponym": 1}
    changed = sum(a != b for a, b in zip(facts, claims, strict=True))
    assert changed == needed.get(" ".join(record.meta["relations"]), 1)
  assert len({p.label for _, p in wrong}) == 3
  again = rules.TaxonliRules(error_rate=0.3, seed=1)
  assert [_parsed(again, record) for record in RECORDS] == parsed
  other = rules.TaxonliRules(error_rate=0.3, seed=2)
  assert [_parsed(other, record) for record in RECORDS] != parsed
  assert teacher.model == "taxonli-rules-error-0.3-seed-1" != other.model


def test_always_wrong():
  teacher = rules.TaxonliRules(error_rate=1)
  for record in RECORDS[:60]:
    assert _parsed(teacher, record).label not in (None, record.label)
  with pytest.raises(UserError, match=r"error_rate is 1\.5; it must be from 0"):
    rules.TaxonliRules(error_rate=1.5)


@pytest.mark.parametrize(
  ("premise", "hypothesis", "relation", "claim"),
  [
    ("poodle", "poodle", "same", "poodle is poodle"),
    ("poodle", "animal", "hypernym", "poodle is an animal"),
    ("animal", "poodle", "hyponym", "not every animal is a poodle"),
    ("poodle", "tool", "disjoint", "poodle is an animal, not a tool"),
    ("tool", "poodle", "disjoint", "poodle is an animal, not a tool"),
  ],
)
def test_claims(premise, hypothesis, relation, claim):
  assert taxonli.relation_of(premise, hypothesis) == relation
  assert taxonli.claim(relation, premise, hypothesis) == claim
  others = {
    taxonli.claim(other, premise, hypothesis)
    for other in taxonli.RELATIONS
    if other != relation
  }
  assert claim not in others
  assert len(others) == 3


@pytest.mark.parametrize(
  "text",
  [
    "A dog is in a kitchen.</s>An animal is in a room.",
    "A poodle is in a kitchen. An animal is in a room.",
    "A poodle is in a kitchen.</s>A horse is in a room.",
    "A tool is in a kitchen.</s>A fruit is in a room.",
    "A kitchen is in a poodle.</s>A room is in an animal.x",
  ],
)
def test_what_is_not_of_taxonli_has_no_answer(text):
  assert rules.TaxonliRules().answer(Record("1", text)) is None
