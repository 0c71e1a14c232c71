"""transformers' tokenizers make our ids of real texts."""

import json

import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.students.export import tokenizer_files

TEXTS = [
  "[label] A poodle is in a kitchen.</s>An animal is in a room.",
  "[rationale]  two  spaces\tand a tab ",
  "a </s> b",
  "",
  " ",
  "(7.0 + 2.0) / 3",
  "ünï ﬁ ½ Ⅷ 因為 😀 e\u0301 \u00a0 \u200b",
  "line\nbreak",
]


def _texts():
  records = datasets.load_split(
    "taxonli", "test", options=datasets.DataOptions(max_records=40)
  )
  return [*TEXTS, *(f"[label] {each.input}" for each in records)]


@pytest.mark.hf
@pytest.mark.parametrize(
  "name", ["taxonli", "taxonli:10", "bytes", "bytes:125"]
)
def test_auto_tokenizer_makes_the_same_ids(make_student, tmp_path, name):
  pytest.importorskip("transformers")
  student = make_student(params={}, vocabulary=name)
  _check(student, tmp_path, _texts())


@pytest.mark.hf
@pytest.mark.shared
@pytest.mark.parametrize("extra_ids", ["", ":100"])
def test_auto_tokenizer_makes_the_same_ids_of_a_real_vocabulary(
  make_student, tmp_path, shared_data, extra_ids
):
  pytest.importorskip("transformers")
  name = f"{shared_data / 'dss_spm.model'}{extra_ids}"
  student = make_student(params={}, vocabulary=name)
  options = datasets.DataOptions(
    data_dir=str(shared_data / "dss_release"), max_records=100
  )
  records = [
    each
    for dataset in ("cqa", "svamp")
    for each in datasets.load_split(dataset, "test", options=options)
  ]
  _check(student, tmp_path, [*TEXTS, *(each.input for each in records)])


def _check(student, folder, texts):
  import transformers

  tokenizer_files.write(student, folder)
  (folder / "config.json").write_text('{"model_type": "t5"}')
  tokenizer_files.check(student, folder, texts)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  for text in texts:
    ids = [*student.vocabulary.encode(text), 1]
    assert tokenizer(text)["input_ids"] == ids, text
  # What spells a special token out is left aside.
  tokenizer_files.check(student, folder, ["<pad> <unk>", "a</s>"])
  # The names that CTranslate2's users turn ids into.
  size = student.vocabulary.vocab_size
  names = tokenizer_files.pieces(student.vocabulary, size)
  assert tokenizer.convert_ids_to_tokens(range(size)) == names


@pytest.mark.hf
def test_another_tokenizer_is_refused(make_student, tmp_path):
  pytest.importorskip("transformers")
  tokenizer_files.write(make_student(params={}), tmp_path)  # of bytes
  (tmp_path / "config.json").write_text('{"model_type": "t5"}')
  student = make_student(params={}, vocabulary="taxonli")
  with pytest.raises(UserError, match="other ids of 'a dog'"):
    tokenizer_files.check(student, tmp_path, ["a dog"])


@pytest.mark.hf
def test_auto_tokenizer_knows_added_tokens(make_student, tmp_path):
  pytest.importorskip("transformers")
  name = 'taxonli:10+["{{", "\\n", "  ", "{", "</a>"]'
  student = make_student(params={}, vocabulary=name)
  texts = ["a {{b{{{\n  \n c  ", "\na</a> dog", "{", "a</s>b {</s>c", " { a"]
  _check(student, tmp_path, texts)


def test_added_tokens_that_transformers_would_cut_otherwise(
  make_student, tmp_path
):
  student = make_student(params={}, vocabulary='taxonli+["ab", "bc"]')
  with pytest.raises(UserError, match="cannot cut in the same way"):
    tokenizer_files.write(student, tmp_path)


def test_a_vocabulary_that_keeps_spaces_is_not_cut_as_t5s(
  make_student, tmp_path
):
  tokenizer_files.write(make_student(params={}, vocabulary="taxonli"), tmp_path)
  value = json.loads((tmp_path / tokenizer_files.CONFIG_FILE).read_text())
  assert value["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.hf
def test_auto_tokenizer_cuts_at_the_same_spaces(make_student, tmp_path):
  pytest.importorskip("transformers")
  student = make_student(params={}, vocabulary="taxonli:10")
  spaces = [chr(c) for c in range(0x3001) if chr(c).isspace()]
  _check(student, tmp_path, [f"A{space}dog{space} is" for space in spaces])


def test_every_row_of_the_table_has_a_name_of_its_own():
  for name in ("taxonli:7", "bytes:7", 'taxonli:7+["{", "<"]'):
    vocabulary = vocabularies.from_name(name)
    size = vocabulary.vocab_size
    names = tokenizer_files.pieces(vocabulary, size + 5)
    assert len(names) == len(set(names)) == size + 5
    assert names[:3] == ["<pad>", "</s>", "<unk>"]
    assert names[-5:] == [f"<unused_{size + i}>" for i in range(5)]


def test_inputs_are_cut_where_training_cut_them(make_student, tmp_path):
  tokenizer_files.write(make_student(params={}), tmp_path)
  value = json.loads((tmp_path / tokenizer_files.CONFIG_FILE).read_text())
  assert value["model_max_length"] == 24
  assert value["tokenizer_class"] == "ByT5Tokenizer"
