"""Vocabularies: ids worked by hand, laws, bad models."""

import copy
import pathlib
import re
from typing import Any

import pytest
import shipped_vocabularies
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax import vocabularies
from dss_jax.base import text_normalization
from dss_jax.base.errors import UserError
from dss_jax.datasets import taxonli
from dss_jax.datasets.options import CONTROLS
from dss_jax.vocabularies import sentencepiece_vocabulary

BYTES = vocabularies.ByteVocabulary()
MODEL = pathlib.Path(str(vocabularies.model_path("taxonli")))


@pytest.fixture(scope="module")
def words():
  return vocabularies.from_name("taxonli")


def test_bytes_are_shifted_by_three():
  assert BYTES.encode("aé\n") == [100, 0xC3 + 3, 0xA9 + 3, 13]
  assert BYTES.decode([100, 0xC3 + 3, 0xA9 + 3, 13]) == "aé\n"
  assert BYTES.vocab_size == 259
  assert vocabularies.ByteVocabulary(125).vocab_size == 384


def test_end_of_sequence_in_a_text_is_its_id(words):
  assert BYTES.encode("a</s>b") == [100, 1, 101]
  assert BYTES.encode("</s>") == [1]
  assert BYTES.encode("a</s></s>") == [100, 1, 1]
  joined = words.encode("A poodle is in a box.</s>An animal is in a room.")
  premise = words.encode("A poodle is in a box.")
  assert joined == [*premise, 1, *words.encode("An animal is in a room.")]


def test_decode_stops_at_the_first_end_and_skips_padding(words):
  assert BYTES.decode([0, 100, 0, 101, 1, 102]) == "ab"
  assert BYTES.decode([-100, 100]) == "a"
  assert BYTES.decode([2, 100, 5000]) == "a"
  ids = words.encode("A poodle")
  assert words.decode([0, *ids, 1, *ids]) == "A poodle"
  assert words.decode([]) == ""


def test_bytes_that_are_no_text_are_dropped():
  assert BYTES.decode([0xC3 + 3, 100]) == "a"


def test_lone_surrogates_become_question_marks(words):
  assert BYTES.encode("\ud800") == BYTES.encode("?")
  assert words.encode("\ud800") == words.encode("?")


@pytest.mark.parametrize("control", CONTROLS)
def test_taxonli_is_written_without_unknowns_and_read_back(words, control):
  for record in taxonli.generate("train", 300, control=control):
    premise, hypothesis = record.input.split("</s>")
    for text in (
      f"[label] {premise}",
      f"explain: {hypothesis}",
      record.rationales[0].text.replace("</s>", " "),
      f"{premise} [label] {record.label}",
    ):
      ids = words.encode(text)
      assert words.unk_id not in ids
      assert words.decode(ids) == text
    assert len(words.encode(record.label)) == 1
    # a word a piece: two prefixed sentences of six words and a full stop
    assert len(words.encode(f"[rationale] {record.input}")) == 16


def test_other_text_is_spelled_with_letters(words):
  ids = words.encode("xylophone\tx\nx “x”")
  assert words.unk_id not in ids
  assert words.decode(ids) == 'xylophone x x "x"'
  assert words.decode(words.encode("é")).strip() == "⁇"


def test_the_shipped_model_is_the_one_the_script_makes(words, tmp_path, capsys):
  shipped_vocabularies.main(
    ["taxonli", "--output", str(tmp_path / "made.model")]
  )
  made = vocabularies.from_name(str(tmp_path / "made.model"))
  assert f"{words.vocab_size} pieces" in capsys.readouterr().out
  assert made.vocab_size == words.vocab_size
  for token in range(words.vocab_size):
    assert made.decode([token]) == words.decode([token])
  text = "An orchid is in a kitchen. xyz “x”"
  assert made.encode(text) == words.encode(text)
  # Nor does it tell where it was made.
  shipped = vocabularies.model_path("taxonli")
  assert shipped is not None
  assert b"tsv" not in shipped.read_bytes()
  assert b"tsv" not in (tmp_path / "made.model").read_bytes()


def test_extra_ids_follow_the_pieces_last_sentinel_first(words):
  more = vocabularies.from_name("taxonli:3")
  size = words.vocab_size
  assert more.vocab_size == size + 3
  assert more.encode("<extra_id_0>")[-1:] == [size + 2]
  assert more.encode("A poodle <extra_id_2>") == [
    *words.encode("A poodle"),
    size,
  ]
  assert more.decode([size + 2]).strip() == "<extra_id_0>"
  assert words.decode([size + 2]).strip() == "⁇"  # an id it does not have
  assert more.name != words.name


def test_a_vocabulary_is_its_content(words, tmp_path):
  copied = tmp_path / "other_name.model"
  copied.write_bytes(MODEL.read_bytes())
  other = vocabularies.from_name(str(copied))
  assert other == words
  assert hash(other) == hash(words)
  assert other.name == words.name
  assert str(tmp_path) not in other.name
  assert copy.deepcopy(other).encode("box") == words.encode("box")
  assert words != BYTES
  assert isinstance(words, vocabularies.Vocabulary)
  assert isinstance(BYTES, vocabularies.Vocabulary)


def test_from_name():
  assert vocabularies.from_name("bytes") == BYTES
  assert vocabularies.from_name("bytes:125").vocab_size == 384
  assert vocabularies.from_name(BYTES) is BYTES
  assert vocabularies.default_name("taxonli") == "taxonli"
  assert vocabularies.default_name("svamp") == "bytes"


def test_a_changed_file_is_read_again(tmp_path):
  path = tmp_path / "words.model"
  path.write_bytes(shipped_vocabularies.build_model(["one"]))
  first = vocabularies.from_name(str(path))
  path.write_bytes(shipped_vocabularies.build_model(["one", "two"]))
  assert vocabularies.from_name(str(path)).vocab_size == first.vocab_size + 1


def _bad_model(kind: str) -> bytes:
  good = shipped_vocabularies.build_model(["word"])
  return {
    "empty": b"",
    "no model": b"this is not a model",
    "cut": good[: len(good) // 2],
    "noise": bytes(range(256)) * 20,
  }[kind]


@pytest.mark.parametrize("kind", ["empty", "no model", "cut", "noise"])
def test_a_corrupt_model_is_one_clear_line(tmp_path, kind):
  path = tmp_path / "bad.model"
  path.write_bytes(_bad_model(kind))
  with pytest.raises(UserError, match="a vocabulary must be") as raised:
    vocabularies.from_name(str(path))
  assert "bad.model" in str(raised.value)
  assert "\n" not in str(raised.value)


def test_wrong_reserved_ids_are_refused(tmp_path):
  from sentencepiece import sentencepiece_model_pb2

  messages: Any = sentencepiece_model_pb2  # built when it is imported
  proto = messages.ModelProto.FromString(
    shipped_vocabularies.build_model(["word"])
  )
  proto.pieces[0].piece, proto.pieces[1].piece = "</s>", "<pad>"
  path = tmp_path / "swapped.model"
  path.write_bytes(proto.SerializeToString())
  with pytest.raises(UserError, match=r"\(1, 0, 2\).*\(0, 1, 2\)"):
    vocabularies.from_name(str(path))


def test_missing_or_huge_files_and_wrong_numbers(tmp_path, monkeypatch):
  with pytest.raises(
    UserError, match=r"nowhere.model.*none of 'bytes', 'taxonli'"
  ):
    vocabularies.from_name(str(tmp_path / "nowhere.model"))
  with pytest.raises(UserError, match=r"cannot read.*a vocabulary must be"):
    vocabularies.SentencePieceVocabulary(str(tmp_path / "nowhere.model"))
  with pytest.raises(UserError, match="extra_ids is 99999"):
    vocabularies.from_name("bytes:99999")
  monkeypatch.setattr(sentencepiece_vocabulary, "MAX_MODEL_BYTES", 100)
  with pytest.raises(UserError, match="at most 100"):
    vocabularies.SentencePieceVocabulary(str(MODEL))


def test_with_eos_cuts_before_the_end_id():
  assert vocabularies.with_eos([5, 6, 7], 3) == [5, 6, 1]
  assert vocabularies.with_eos([5, 6], 3) == [5, 6, 1]
  assert vocabularies.with_eos([5, 6, 7], None) == [5, 6, 7, 1]
  assert vocabularies.with_eos([5], 1) == [1]


# --- added tokens, and what can be written -------------------------------------

ADDED = 'taxonli:2+["{", "}", "<", "\\n", "  ", "é", "box<"]'


def test_added_tokens_follow_the_sentinels_and_are_written_to_the_letter():
  more = vocabularies.from_name(ADDED)
  size = vocabularies.from_name("taxonli:2").vocab_size
  assert more.vocab_size == size + 7
  assert more.encode("{}<\n  é")[-6:] == list(range(size, size + 6))
  # The longest counts, as in transformers.
  assert more.encode("box<")[-1:] == [size + 6]
  assert more.encode("{</s>}")[1:3] == [size, more.eos_id]
  text = "if poodle < box {\n    an orchid }\n"
  assert more.decode(more.encode(text)) == text
  # Where none of them occurs, nothing changes.
  plain = "[label] An orchid is in a kitchen."
  assert more.encode(plain) == vocabularies.from_name("taxonli").encode(plain)
  # A private character in a text is no added token.
  assert size not in more.encode("\U00100000")


@settings(max_examples=200, deadline=None)
@given(
  st.lists(st.sampled_from([*"{}<é ab.\n", "box", "  "]), max_size=30).map(
    "".join
  )
)
def test_what_can_be_written_comes_back(text):
  more = vocabularies.from_name(ADDED)
  assert vocabularies.can_write(more, text)
  assert text_normalization.same(more.decode(more.encode(text)), text)
  plain = vocabularies.from_name("taxonli")
  missing = vocabularies.missing_characters(plain, text)
  assert missing == ["é"] * ("é" in text)
  assert vocabularies.can_write(plain, text) == (not missing)


@pytest.mark.parametrize(
  ("text", "by_model", "by_bytes"),
  [
    ("yes", True, True),
    ("a  b\t", True, True),
    ("x\u00b2", False, True),
    ("\uff41", False, True),  # full width; most models know NFKC, this does not
    ("\ufb01", False, True),  # a ligature
    ("\U0001f600", False, True),
    ("\u4e2d\u6587", False, True),
    ("\x01", False, True),  # dropped without a trace
    ("\u2047", False, True),
    ("no</s>", False, False),
    ("\ud800", False, False),
    ("", True, True),
  ],
)
def test_whether_a_text_can_be_written(words, text, by_model, by_bytes):
  assert vocabularies.can_write(words, text) is by_model
  assert vocabularies.can_write(BYTES, text) is by_bytes


def test_the_name_of_added_tokens_is_read_and_written():
  parts = vocabularies.split_name(ADDED)
  assert parts == ("taxonli", 2, ("{", "}", "<", "\n", "  ", "é", "box<"))
  assert vocabularies.split_name(str(parts)) == parts
  assert vocabularies.split_name('/a+b.model+["\n"]').added_tokens == ("\n",)
  assert str(vocabularies.split_name("bytes")) == "bytes:0"
  more = vocabularies.from_name(ADDED)
  assert copy.deepcopy(more) == more
  assert more != vocabularies.from_name("taxonli:2")
  assert more.name == vocabularies.from_name(str(parts)).name


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ('bytes+["{"]', "bytes write every text"),
    ("taxonli+[1]", "must be a JSON list of texts"),
    ('taxonli+["a"', "must be a JSON list of texts"),
    ('taxonli+["a", "a"]', "has 'a' twice"),
    ('taxonli+[""]', "must have 1 to 100 characters"),
    ('taxonli+["x</s>"]', "which no text can hold"),
  ],
)
def test_added_tokens_that_cannot_be_are_refused(name, message):
  with pytest.raises(UserError, match=re.escape(message)):
    vocabularies.from_name(name)


def test_a_student_learns_on_with_more_tokens_but_not_with_others():
  plain, two = map(vocabularies.from_name, ("taxonli:2", 'taxonli:2+["{","}"]'))
  three = vocabularies.from_name('taxonli:2+["{","}","<"]')
  assert vocabularies.extends(two, plain)
  assert vocabularies.extends(three, two)
  assert not vocabularies.extends(two, three)
  swapped = vocabularies.from_name('taxonli:2+["}","{"]')
  assert not vocabularies.extends(swapped, two)
  moved = vocabularies.from_name('taxonli:3+["{","}"]')
  assert not vocabularies.extends(moved, two)
  assert not vocabularies.extends(BYTES, plain)
