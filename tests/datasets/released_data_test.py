"""The released layout, from hand-made files everywhere and real ones if here."""

import ast
import collections
import json
import operator
import shutil

import numpy as np
import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, arithmetic, load_source_split

RELEASED = ("anli1", "anli2", "anli3", "cqa", "esnli", "svamp")


@pytest.fixture
def release(fixtures):
  return fixtures / "release"


def _load(name, split, folder, **options):
  return load_source_split(
    name, split, options=DataOptions(data_dir=str(folder), **options)
  )


def _statuses(records):
  return dict(collections.Counter(r.rationales[0].status for r in records))


@pytest.mark.parametrize("name", RELEASED)
def test_every_dataset_loads(release, name):
  spec = datasets.get(name)
  ids = set()
  for split in spec.source_splits:
    records = _load(name, split, release)
    assert len(records) >= 6
    assert [record.id for record in records] == [
      f"{split}-{i}" for i in range(len(records))
    ]
    ids.update(record.id for record in records)
    for record in records:
      assert spec.labels is None or record.label in (*spec.labels, None)
      (rationale,) = record.rationales
      assert rationale.source == "palm"
      assert ("completion" in record.meta) == (rationale.status != "ok")
  assert len(ids) >= 12


def test_svamp_rows(release):
  record = _load("svamp", "train", release)[1]
  assert record.input == (
    "A baker made 84 rolls and put them in bags of 4\nHow many bags did he fill?"
  )
  assert record.label == "( 84.0 / 4.0 )"
  assert record.rationales[0].label == "(84 / 4)"
  assert record.rationales[0].text == (
    "84 rolls go into bags of 4. 84 / 4 is 21."
  )


def test_cqa_rows(release):
  record = _load("cqa", "train", release)[0]
  assert record.input == (
    "Where would you keep milk cold?\nAnswer Choices:\n(a) refrigerator\n"
    "(b) oven\n(c) shelf\n(d) garden\n(e) car"
  )
  assert record.label == "refrigerator"
  assert record.meta["source_id"] == "a0000"
  assert record.meta["choices"][4] == "car"


def test_nli_rows(release):
  record = _load("anli1", "validation", release)[2]
  assert record.input == (
    "Dr Osei wrote a book about frogs.</s>Dr Osei likes frogs."
  )
  assert record.label == "neutral"
  assert record.rationales[0].label == "entailment"
  record = _load("esnli", "train", release)[9]
  assert record.label is None  # -1: the annotators did not agree


@pytest.mark.parametrize(
  ("name", "parser", "expected"),
  [
    (
      "svamp",
      "official",
      {"ok": 8, "no_marker": 2, "no_label": 1, "unevaluable": 2,
       "several_markers": 1},
    ),
    (
      "svamp",
      "tolerant",
      {"ok": 7, "no_marker": 1, "truncated": 2, "unevaluable": 2,
       "label_cut": 1, "multiple_answers": 1},
    ),
    (
      "cqa",
      "official",
      {"ok": 4, "label_not_in_choices": 3, "multiple_answers": 3,
       "no_label": 2, "no_marker": 1, "several_markers": 1},
    ),
    (
      "cqa",
      "tolerant",
      {"ok": 6, "multiple_answers": 4, "no_label": 1,
       "letter_text_mismatch": 1, "label_not_in_choices": 1, "truncated": 1},
    ),
    (
      "anli1",
      "official",
      {"ok": 3, "no_marker": 3, "no_label": 1, "label_not_in_choices": 3,
       "empty": 1, "several_markers": 1},
    ),
    (
      "anli1",
      "tolerant",
      {"ok": 6, "multiple_answers": 1, "no_marker": 1, "truncated": 2, "label_not_in_choices": 1,
       "empty": 1},
    ),
    (
      "esnli",
      "official",
      {"ok": 5, "no_marker": 3, "label_not_in_choices": 3, "empty": 1},
    ),
    (
      "esnli",
      "tolerant",
      {"ok": 7, "truncated": 2, "label_not_in_choices": 1, "empty": 1,
       "no_marker": 1},
    ),
  ],
)  # fmt: skip
def test_every_defect_is_counted(release, name, parser, expected):
  records = _load(name, "train", release, parser=parser)
  assert _statuses(records) == expected


def test_the_other_teacher_and_people(release):
  record = _load("svamp", "train", release, rationale_source="gpt-neox")[1]
  rationale = record.rationales[0]
  assert rationale.source == "gpt-neox"
  assert rationale.text == "( 84 / 4 ) is what we need."
  assert rationale.label == "(84 / 4)"
  with pytest.raises(UserError, match="no completions of gpt-neox for cqa"):
    _load("cqa", "train", release, rationale_source="gpt-neox")
  records = _load("esnli", "validation", release, rationale_source="human")
  assert [r.source for r in records[0].rationales] == ["human"] * 3
  assert records[0].rationales[0].label == records[0].label
  records = _load("cqa", "train", release, rationale_source="human")
  assert [r.text for r in records[0].rationales] == [
    "a refrigerator is what fits"
  ]
  assert (
    _load("svamp", "train", release, rationale_source="human")[0].rationales
    == ()
  )


def test_without_completions_there_are_no_rationales(release, tmp_path):
  shutil.copytree(release / "anli2", tmp_path / "datasets" / "anli2")
  shutil.rmtree(tmp_path / "datasets" / "anli2" / "palm")
  records = _load("anli2", "train", tmp_path)  # also one level further down
  assert len(records) == 8
  assert all(record.rationales == () for record in records)


@pytest.mark.parametrize(
  ("file", "content", "message"),
  [
    ("svamp_train.json", None, "no such file: .*svamp_train.json"),
    ("llm/train_CoT_1.json", None, "14 entries and 8 completions"),
    ("llm/train_CoT_0.json", None, "no completions for svamp train"),
    ("llm/train_CoT_0.json", "[1]", "completion 0 is not text"),
    ("llm/train_CoT_0.json", "{}", "not a list of completions"),
    ("llm/train_CoT_0.json", "[", "train_CoT_0.json: not JSON"),
    ("llm/train_CoT_0.json", b'["\xff"]', "not valid UTF-8"),
    ("svamp_train.json", '{"input": "a"}\n', r"json:1: no text under key 'lab"),
    ("svamp_train.json", '{"input": "a", "label": "b"}\n3', "json:2: not a JSON"),
    ("svamp_train.json", "[[]]", r"svamp_train.json:1: not a JSON object"),
  ],
)  # fmt: skip
def test_damaged_files(release, tmp_path, file, content, message):
  shutil.copytree(release / "svamp", tmp_path / "svamp")
  path = tmp_path / "svamp" / file
  if content is None:
    path.unlink()
  else:
    path.write_bytes(
      content if isinstance(content, bytes) else content.encode()
    )
  with pytest.raises(UserError, match=message):
    _load("svamp", "train", tmp_path)


@pytest.mark.parametrize(
  ("name", "row", "message"),
  [
    ("cqa", {"question": "q", "answer": "a"}, "no list of choices"),
    ("cqa", {"question": "q", "answer": "a", "choices": ["x"]}, "1 choices"),
    ("anli1", {"premise": "p", "hypothesis": "h", "label": 3}, "label 3; allo"),
    ("anli1", {"premise": "p", "label": 0}, "no text under key 'hypothesis'"),
  ],
)
def test_rows_of_the_wrong_form(tmp_path, name, row, message):
  (tmp_path / name).mkdir()
  (tmp_path / name / f"{name}_test.json").write_text(json.dumps(row))
  with pytest.raises(UserError, match=message):
    _load(name, "test", tmp_path)


def test_svamp_from_its_original_file(tmp_path):
  """Without the split files, the original one is split as officially."""
  rows = [
    {"ID": f"chal-{i}", "Body": f"Body {i}.", "Question": "How many?",
     "Equation": f"( {i}.0 + 1.0 )", "Answer": i + 1.0}
    for i in range(1000)
  ]  # fmt: skip
  (tmp_path / "svamp").mkdir()
  (tmp_path / "svamp" / "SVAMP.json").write_text(json.dumps(rows))
  train = _load("svamp", "train", tmp_path)
  test = _load("svamp", "test", tmp_path)
  order = np.random.RandomState(0).permutation(1000)
  assert [r.meta["source_id"] for r in train] == [
    f"chal-{i}" for i in order[:800]
  ]
  assert [r.input for r in test] == [
    f"Body {i}.\nHow many?" for i in order[800:]
  ]


def test_labels_in_one_spelling(release):
  records = _load("svamp", "train", release, label_spelling="normalized")
  assert records[1].label == "(84 / 4)" == records[1].rationales[0].label
  assert records[2].label == "(30 + 25 + 5)" == records[2].rationales[0].label
  assert records[13].label == "(3 * 2.5)" == records[13].rationales[0].label
  # What has no value keeps its spelling.
  assert records[7].rationales[0].label == "(some - 8)"
  plain = _load("svamp", "train", release)
  for record, other in zip(records, plain, strict=True):
    assert arithmetic.same_value(record.label or "", other.label or "")
  # Other datasets have words for labels.
  assert _load("cqa", "train", release, label_spelling="normalized") == _load(
    "cqa", "train", release
  )


# --- the real files ----------------------------------------------------------


def _agreeing(records, same):
  return sum(
    record.rationales[0].label is not None
    and same(record.rationales[0].label, record.label)
    for record in records
  )


@pytest.mark.shared
@pytest.mark.parametrize(
  ("name", "split", "rows", "unlabelled", "blank", "unusable", "agreeing"),
  [
    ("cqa", "train", 9741, 3, 0, 445, {"official": 7234, "tolerant": 7483}),
    ("cqa", "test", 1221, 0, 0, 46, {"official": 943, "tolerant": 969}),
    ("svamp", "train", 800, 13, 11, 21, {"official": 586, "tolerant": 586}),
    ("svamp", "test", 200, 2, 2, 5, {"official": 148, "tolerant": 148}),
  ],
)
def test_the_released_files(
  shared_data, name, split, rows, unlabelled, blank, unusable, agreeing
):
  """The counts measured on the release; shares of them are in percent:

  CQA 74.26 and 77.23 officially, 76.82 and 79.36 tolerantly; SVAMP 73.25 and
  74.00, by value, both ways.
  """
  folder = shared_data / "dss_release"
  same = arithmetic.same_value if name == "svamp" else str.__eq__
  for parser, count in agreeing.items():
    records = _load(name, split, folder, parser=parser)
    assert len(records) == rows
    assert _agreeing(records, same) == count
  records = _load(name, split, folder, parser="official")
  first = [record.rationales[0] for record in records]
  assert sum(rationale.label is None for rationale in first) == unlabelled
  assert sum(not rationale.text.strip() for rationale in first) == blank
  bad = ("multiple_answers", "label_not_in_choices", "unevaluable")
  assert sum(rationale.status in bad for rationale in first) == unusable


@pytest.mark.shared
def test_the_released_completions_status_by_status(shared_data):
  folder = shared_data / "dss_release"
  assert _statuses(_load("cqa", "train", folder)) == {
    "ok": 9293, "multiple_answers": 284, "label_not_in_choices": 161,
    "no_label": 3,
  }  # fmt: skip
  assert _statuses(_load("cqa", "train", folder, parser="tolerant")) == {
    "ok": 9423, "multiple_answers": 284, "label_not_in_choices": 30,
    "letter_text_mismatch": 1, "no_label": 3,
  }  # fmt: skip
  assert _statuses(_load("svamp", "train", folder, parser="tolerant")) == {
    "ok": 750, "label_cut": 16, "unevaluable": 20, "truncated": 12,
    "no_marker": 2,
  }  # fmt: skip


@pytest.mark.shared
def test_svamps_original_file_gives_the_released_split(shared_data, tmp_path):
  folder = shared_data / "dss_release"
  (tmp_path / "svamp").mkdir()
  shutil.copy(folder / "svamp" / "SVAMP.json", tmp_path / "svamp")
  for split in ("train", "test"):
    ours = _load("svamp", split, tmp_path)
    released = _load("svamp", split, folder)
    assert [(r.input, r.label) for r in ours] == [
      (r.input, r.label) for r in released
    ]


@pytest.mark.shared
def test_values_agree_with_python_on_every_real_label(shared_data):
  """The official metric is Python's eval; ours is the same where labels are
  arithmetic. (Its `and` makes two labels "right" by accident: 588, not 586.)"""
  folder = shared_data / "dss_release"
  labels = set()
  for split in ("train", "test"):
    for record in _load("svamp", split, folder):
      labels.update({record.label, record.rationales[0].label or ""})
  checked = 0
  for label in labels:
    expected = _by_python(label)
    assert arithmetic.value(label) == expected
    if expected is not None:
      assert arithmetic.value(arithmetic.normalize(label) or "") == expected
      checked += 1
  assert checked > 900


_OPERATORS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}


def _by_python(text: str) -> float | None:
  """The value by Python's own grammar; None for what is no arithmetic."""

  def walk(node) -> float:
    if isinstance(node, ast.Constant):
      assert isinstance(node.value, int | float)
      return node.value
    if isinstance(node, ast.UnaryOp):
      return -walk(node.operand)
    return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))

  try:
    return float(walk(ast.parse(text, mode="eval").body))
  except (SyntaxError, AttributeError, KeyError, ZeroDivisionError):
    return None
