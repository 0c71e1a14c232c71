"""`tokenizer.json` makes the ids of the SentencePiece model that it was made of.

Where the `tokenizers` library is installed, it says the same.
"""

import base64
import dataclasses
import json
import pathlib
import shutil

import hypothesis
import hypothesis.strategies as st
import pytest

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.pretrained import (
  open_pretrained,
  sentencepiece_models,
  tokenizer_json,
)

MODEL = pathlib.Path(str(vocabularies.model_path("taxonli")))
MODEL_BYTES = MODEL.read_bytes()
EXTRA_IDS = 7
VOCABULARY = vocabularies.SentencePieceVocabulary(str(MODEL), EXTRA_IDS)
# Those of the shipped model's own training, and what it cannot write.
SPACES = " \t\n\x0b\x0c\r\x85\xa0\u1680\u2000\u2009\u2028\u202f\u205f\u3000"
TEXTS = st.text(
  st.sampled_from(f"abcdefghijklmnop. ,{{é½Ⅷ因ﬁ{SPACES}"), max_size=40
)
SPLIT_AT_ALL = {"type": "WhitespaceSplit"}


def _of_t5(content: dict) -> dict:
  """The same with T5's table, and words cut as transformers cuts them."""
  import sentencepiece

  spec = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
  message = sentencepiece_models.parsed(spec.serialized_model_proto())
  table = message.normalizer_spec.precompiled_charsmap
  content["normalizer"]["precompiled_charsmap"] = base64.b64encode(
    table
  ).decode()
  content["pre_tokenizer"]["pretokenizers"][0] = SPLIT_AT_ALL
  return content


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """Converted models are kept here."""
  monkeypatch.setenv("DSS_JAX_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture
def content():
  """A file of our own."""
  content = tokenizer_json.of_vocabulary(VOCABULARY)
  assert content is not None
  return content


@pytest.fixture
def folder(tmp_path, folders, content):
  config = dataclasses.replace(folders.CONFIG, vocab_size=320)
  path = folders.write(tmp_path / "x", config=config)
  (path / "tokenizer.json").write_text(json.dumps(content))
  return path


def _vocabulary(folder):
  name = open_pretrained(str(folder)).own_vocabulary()
  assert name is not None
  return vocabularies.from_name(name), name


def test_a_model_comes_back_with_its_sentinels(tmp_path, content):
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(content))
  model, extra_ids, added = tokenizer_json.read(path)
  assert added == ()
  assert extra_ids == EXTRA_IDS
  assert sentencepiece_models.same_model(model, MODEL_BYTES)
  size = len(content["model"]["vocab"])
  texts = sentencepiece_models.piece_texts(model, extra_ids)
  assert texts == [text for text, _ in content["model"]["vocab"]]
  assert texts[0] == "<pad>"
  assert texts[size - 1] == "<extra_id_0>"
  assert texts[size - EXTRA_IDS] == f"<extra_id_{EXTRA_IDS - 1}>"


def test_it_makes_the_same_ids(folder, cache):
  found, name = _vocabulary(folder)
  assert pathlib.Path(name.rpartition(":")[0]).parent.parent == cache
  ours = vocabularies.from_name(f"taxonli:{EXTRA_IDS}")
  assert found.vocab_size == ours.vocab_size

  @hypothesis.given(TEXTS)
  @hypothesis.settings(deadline=None, derandomize=True)
  def check(text):
    assert found.encode(text) == ours.encode(text)

  check()
  assert found.encode("a dog</s>a cat") == ours.encode("a dog</s>a cat")
  ids = ours.encode("a poodle is in a kitchen.")
  assert found.decode(ids) == "a poodle is in a kitchen."
  # A second time it is there already.
  assert _vocabulary(folder)[1] == name


def test_next_to_the_same_model_it_is_not_needed(folder):
  shutil.copy(MODEL, folder / "spiece.model")
  assert _vocabulary(folder)[1] == f"{folder}/spiece.model:{EXTRA_IDS}"


def test_next_to_another_model_it_counts_as_for_transformers(folder, content):
  shutil.copy(MODEL, folder / "spiece.model")
  vocab = content["model"]["vocab"]
  vocab[-EXTRA_IDS:-EXTRA_IDS] = [["zzz", -1.5]]
  for token in content["added_tokens"][3:]:
    token["id"] += 1
  (folder / "tokenizer.json").write_text(json.dumps(content))
  found, _ = _vocabulary(folder)
  new = len(vocab) - EXTRA_IDS - 1
  assert new in found.encode("azzza")
  assert found.vocab_size == len(vocab)


def _set(path, value):
  def change(content):
    *parents, last = path
    node = content
    for key in parents:
      node = node[key]
    node[last] = value

  return change


def _add(**token):
  token = {"id": 272, "content": "{", "special": False, **token}
  return lambda content: content["added_tokens"].append(token)


_OTHERS = {
  "sequence": [{"type": "NFKC"}, {"type": "Lowercase"}],
  "replace": [
    {"type": "Precompiled", "precompiled_charsmap": ""},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "b"},
  ],
}


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (_add(), "adds the token '{' with the id 272"),
    (_add(content="<sep>", special=True), "adds the token '<sep>'"),
    (_add(id=5000), "with the id 5000"),
    (_add(id=None), "added token has no id"),
    (_set(("added_tokens",), [7]), "added token has no id"),
    (_set(("added_tokens", 3, "id"), 4), "'<extra_id_6>' with the id 4"),
    (_set(("model", "type"), "BPE"), "its model is 'BPE', and T5's is Unigram"),
    (_set(("model", "byte_fallback"), True), "falls back to bytes"),
    (_set(("model", "unk_id"), 0), "with unk_id 0; they must be"),
    (_set(("model", "vocab"), []), "it has 0 pieces"),
    (_set(("model", "vocab", 0), ["<s>", 0]), "its first pieces are"),
    (_set(("model", "vocab", 5), ["x", "y"]), "no piece with a score"),
    (_set(("model", "vocab", 5), ["", 1]), "no piece with a score"),
    (_set(("model",), None), "it has no model"),
    (_set(("normalizer",), None), "normalises texts by none"),
    (_set(("normalizer",), {"type": "Lowercase"}), "normalises texts by Lower"),
    (
      _set(
        ("normalizer",),
        {"type": "Sequence", "normalizers": _OTHERS["sequence"]},
      ),
      "normalises texts by NFKC, Lowercase",
    ),
    (
      _set(
        ("normalizer",),
        {"type": "Sequence", "normalizers": _OTHERS["replace"]},
      ),
      "normalises texts by Precompiled, Replace",
    ),
    (
      _set(("normalizer", "precompiled_charsmap"), "no base 64"),
      "cannot be read",
    ),
    (
      _set(("pre_tokenizer",), {"type": "ByteLevel"}),
      "into words by ByteLevel",
    ),
    (_set(("pre_tokenizer",), None), "into words by none"),
    (
      _set(("pre_tokenizer", "pretokenizers", 1, "prepend_scheme"), "never"),
      "into words by Split, Metaspace",
    ),
    (
      _set(("pre_tokenizer", "pretokenizers", 1, "replacement"), "_"),
      "into words by",
    ),
    (
      _set(("pre_tokenizer", "pretokenizers", 0, "pattern"), {"String": "a"}),
      "into words by Split, Metaspace",
    ),
    (
      _set(("pre_tokenizer", "pretokenizers", 0), SPLIT_AT_ALL),
      "cuts texts at every space of Unicode's, and its table keeps some as"
      " characters, such as U+000B",
    ),
    # Without it nothing makes one space of two.
    (
      lambda content: content["pre_tokenizer"]["pretokenizers"].pop(0),
      "into words by Metaspace",
    ),
    (_set(("post_processor",), None), "ends texts otherwise than with </s>"),
    (
      lambda content: content["post_processor"]["single"].insert(
        0, {"SpecialToken": {"id": "<s>", "type_id": 0}}
      ),
      "ends texts otherwise",
    ),
  ],
)
def test_what_would_change_ids_is_refused_in_one_line(
  folder, content, change, reason
):
  change(content)
  (folder / "tokenizer.json").write_text(json.dumps(content))
  opened = open_pretrained(str(folder))  # another vocabulary may be given
  with pytest.raises(UserError) as error:
    opened.own_vocabulary()
  assert reason in str(error.value)
  assert "\n" not in str(error.value)


def test_other_forms_of_the_same_are_read(folder, content):
  """As transformers 4 writes them: sentinels added, spaces by a normaliser."""
  ours = vocabularies.from_name(f"taxonli:{EXTRA_IDS}")
  content = _of_t5(content)
  del content["model"]["vocab"][-EXTRA_IDS:]
  content["pre_tokenizer"] = {
    "type": "Metaspace",
    "replacement": "▁",
    "add_prefix_space": True,
  }
  spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
  strip = {"type": "Strip", "strip_left": False, "strip_right": True}
  parts = [content["normalizer"], strip, spaces]
  content["normalizer"] = {"type": "Sequence", "normalizers": parts}
  (folder / "tokenizer.json").write_text(json.dumps(content))
  found, name = _vocabulary(folder)
  assert name.endswith(f":{EXTRA_IDS}")
  for text in ("a  dog ", " a dog", "a\tdog"):
    assert found.encode(text) == ours.encode(text)


def test_a_file_of_transformers_5_is_read_and_cuts_as_t5(folder, content):
  (folder / "tokenizer.json").write_text(json.dumps(_of_t5(content)))
  found, _ = _vocabulary(folder)
  assert isinstance(found, vocabularies.SentencePieceVocabulary)
  assert sentencepiece_models.cuts_as_t5(found)
  for space in SPACES.replace("\x85", ""):
    # As one, or as nothing.
    assert found.encode(f"a{space}b") in map(found.encode, ("a b", "ab"))
  assert not sentencepiece_models.cuts_as_t5(VOCABULARY)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
def test_tokens_added_next_to_a_model_are_refused(folder, name):
  (folder / "tokenizer.json").unlink()
  shutil.copy(MODEL, folder / "spiece.model")
  size = len(sentencepiece_models.piece_texts(MODEL_BYTES, 0))
  right = {f"<extra_id_{1 - i}>": size + i for i in range(2)}

  def write(tokens):
    value = tokens
    if name == "tokenizer_config.json":
      value = {
        "extra_ids": 2,
        "added_tokens_decoder": {
          str(i): {"content": text} for text, i in tokens.items()
        },
      }
    else:
      config = json.dumps({"extra_ids": 2})
      (folder / "tokenizer_config.json").write_text(config)
    (folder / name).write_text(json.dumps(value))

  write(right)
  assert _vocabulary(folder)[1] == f"{folder}/spiece.model:2"
  for wrong in ({"\n": size + 2}, {"<extra_id_0>": size}):
    write(right | wrong)
    with pytest.raises(UserError, match="texts would get other ids"):
      _vocabulary(folder)


def test_models_that_treat_spaces_otherwise_have_no_such_file(tmp_path):
  from sentencepiece import sentencepiece_model_pb2

  for name in ("add_dummy_prefix", "remove_extra_whitespaces"):
    message = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009
    message.ParseFromString(MODEL_BYTES)
    setattr(message.normalizer_spec, name, False)
    changed = message.SerializeToString()
    path = tmp_path / "changed.model"
    path.write_bytes(changed)
    vocabulary = vocabularies.SentencePieceVocabulary(str(path))
    assert tokenizer_json.of_vocabulary(vocabulary) is None
    assert not sentencepiece_models.same_model(changed, MODEL_BYTES)


@pytest.mark.parametrize(
  "tokens", [("{", "\n", "{{", "  "), ("<",), ("ab", "abab")]
)
def test_a_vocabularys_own_added_tokens_come_back(folder, tokens):
  vocabulary = dataclasses.replace(VOCABULARY, added_tokens=tokens)
  content = tokenizer_json.of_vocabulary(vocabulary)
  assert content is not None
  (folder / "tokenizer.json").write_text(json.dumps(content))
  found, _ = _vocabulary(folder)
  assert isinstance(found, vocabularies.SentencePieceVocabulary)
  assert found.added_tokens == tokens
  assert found.extra_ids == EXTRA_IDS
  for text in ("a {{b}\n  c", "abab<ab", "{"):
    assert found.encode(text) == vocabulary.encode(text)


@hypothesis.given(
  st.lists(st.text("ab", min_size=1, max_size=5), unique=True, max_size=5)
)
@hypothesis.settings(deadline=None, derandomize=True)
def test_overlaps_are_found(tokens):
  expected = any(
    one != other and one.endswith(other[:length])
    for one in tokens
    for other in tokens
    for length in range(1, min(len(one), len(other)))
  )
  assert tokenizer_json._overlap(tokens) == expected


def test_overlaps_of_many_tokens_are_found():
  tokens = [f"{number:04}{'x' * 94}" for number in range(1000)]
  assert not tokenizer_json._overlap(tokens)
  assert tokenizer_json._overlap([*tokens, "yy0500"])


def test_added_tokens_that_overlap_have_no_such_file():
  for tokens in (("ab", "bc"), ("  ", " \n")):
    vocabulary = dataclasses.replace(VOCABULARY, added_tokens=tokens)
    assert tokenizer_json.of_vocabulary(vocabulary) is None


def test_markers_that_are_not_the_last_pieces_are_refused(folder):
  vocabulary = dataclasses.replace(VOCABULARY, added_tokens=("{", "<"))
  content = tokenizer_json.of_vocabulary(vocabulary)
  assert content is not None
  for change in (
    lambda: content["model"]["vocab"].append(["x", 0]),
    lambda: content["normalizer"]["normalizers"].pop(0),
  ):
    change()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="normalises texts by Replace"):
      _vocabulary(folder)


def test_a_damaged_table_is_refused(folder, content):
  """The table is a compiled automaton, which SentencePiece checks."""
  table = base64.b64decode(content["normalizer"]["precompiled_charsmap"])
  for data in (b"", table[:100], b"\xff" * 64):
    content["normalizer"]["precompiled_charsmap"] = base64.b64encode(
      data
    ).decode()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError):
      _vocabulary(folder)


@pytest.mark.hf
def test_transformers_makes_the_same_ids(folder):
  transformers = pytest.importorskip("transformers")
  (folder / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
  )
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  saved = folder.with_name("saved")
  shutil.copytree(folder, saved)
  theirs.save_pretrained(saved)
  found, name = _vocabulary(saved)
  assert name.endswith(f":{EXTRA_IDS}")

  @hypothesis.given(TEXTS)
  @hypothesis.settings(deadline=None, derandomize=True)
  def check(text):
    assert [*found.encode(text), 1] == theirs(text)["input_ids"]

  check()


def test_a_model_that_is_no_message_is_refused():
  with pytest.raises(UserError, match="SentencePiece model is damaged"):
    sentencepiece_models.same_model(b"", b"\x0a\xff")
