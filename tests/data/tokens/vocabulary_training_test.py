"""Vocabularies of a dataset's own text."""

import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.tokens import text_checks, vocabulary_training
from dss_jax.datasets.records import Rationale, Record

RECORDS = [
  Record("1", "Überweisung an  München</s>kam nie an (Nr. 7)", "Zahlung", (
    Rationale("Geld fehlt ½ Jahr", "Zahlung", "me"),
  )),
  Record("2", "cannot log in {since} <today>", "login", ()),
]  # fmt: skip


def test_every_text_of_the_data_can_be_written(tmp_path):
  path = tmp_path / "own.model"
  texts = list(vocabulary_training.texts_of(RECORDS))
  path.write_bytes(vocabulary_training.train(texts, 300))
  vocabulary = vocabularies.from_name(str(path))
  for text in texts:
    assert vocabulary.unk_id not in vocabulary.encode(text)
  text_checks.check_labels([r.label for r in RECORDS if r.label], vocabulary)
  # ASCII is there although no record has it.
  assert vocabulary.decode(vocabulary.encode("Z~9")) == "Z~9"


def test_of_many_texts_all_kinds_are_looked_at(monkeypatch, tmp_path):
  """Texts of a record come in turns; characters may be in any of them."""
  rationale = (Rationale("the Ω of it", "yes", "me"),)
  records = [
    Record(str(number), f"does {number} fit?", "yes", rationale)
    for number in range(120)
  ]
  records[7] = Record("7", "does ß fit?", "yes", rationale)
  texts = list(vocabulary_training.texts_of(records))
  monkeypatch.setattr(vocabulary_training, "MAX_TEXTS", len(texts) // 4)
  path = tmp_path / "own.model"
  path.write_bytes(vocabulary_training.train(texts, 300))
  vocabulary = vocabularies.from_name(str(path))
  assert vocabulary.unk_id not in vocabulary.encode("ßΩ")
  # Words of labels and rationales are pieces, not spelt.
  assert len(vocabulary.encode("the Ω of it")) <= 6
  assert len(vocabulary.encode("yes")) <= 2


def test_words_become_pieces(tmp_path):
  options = datasets.DataOptions(generated_num_train=300)
  records = datasets.load_split("kinds", "train", options=options)
  path = tmp_path / "kinds.model"
  texts = list(vocabulary_training.texts_of(records))
  model = vocabulary_training.train(texts, 1000)
  assert model == vocabulary_training.train(texts, 1000)
  path.write_bytes(model)
  vocabulary = vocabularies.from_name(str(path))
  tokens = sum(len(vocabulary.encode(text)) for text in texts)
  words = sum(len(text.split()) for text in texts)
  assert words <= tokens < 1.4 * words


def test_a_word_is_the_same_piece_before_any_sign(tmp_path):
  """Else a student would learn what it means once for each sign."""
  words = ["Paella", "paella", "dal", "soup", "rice"]
  texts = [f"{a}, {b}. {a}; {b}" for a in words for b in words] * 20
  path = tmp_path / "own.model"
  path.write_bytes(vocabulary_training.train(texts, 300))
  vocabulary = vocabularies.from_name(str(path))
  (alone,) = vocabulary.encode("paella")
  for sign in ",.;":
    assert vocabulary.encode(f"paella{sign}")[0] == alone


@pytest.mark.parametrize(
  ("texts", "size", "message"),
  [
    ([" ", "</s>"], 300, "no text"),
    (["".join(chr(0x4E00 + i) for i in range(900))], 500, "500 pieces"),
    (["a"], 10, "vocab_size"),
  ],
)
def test_impossible_vocabularies(texts, size, message):
  with pytest.raises(UserError, match=message):
    vocabulary_training.train(texts, size)
