"""The official code's teacher-label training set, unreadable labels included."""

import json
import re

import pytest

from dss_jax import vocabularies
from dss_jax.data.pairs import flat_records, subtasks
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.data.tokens import tokenization
from dss_jax.datasets import DataOptions, load_source_split

OFFICIAL = MethodOptions(
  label_prefix="predict: ",
  rationale_prefix="explain: ",
  rationale_filter="all",
  unreadable_labels="blank",
)


def _official(dataset: str, completion: str) -> tuple[str, str]:
  """(rationale, label) as the official code has them, written down again.

  Its blanks are a space or nothing at all; both are no token of T5.
  """
  head = completion.split("Q:")[0].rstrip()
  marker = "So the answer is" if dataset == "cqa" else "The answer is"
  parts = head.split(marker)
  if len(parts) != 2:
    return "", ""
  if dataset == "cqa":
    pieces = re.split(r"\(.\)", parts[1])
    label = pieces[1].strip() if len(pieces) > 1 else ""
    return parts[0].rstrip(), label[:-1] if label.endswith(".") else label
  found = re.search(r"\(.*\)", parts[1])
  return parts[0].rstrip(), found.group(0) if found else ""


def _pairs(dataset, records, subtask):
  made = flat_records.make_pairs(
    flat_records.flatten(
      records,
      "train",
      agrees=tokenization.agreement(dataset),
      label_source="teacher",
    ),
    subtask,
    OFFICIAL,
    "train",
    vocabularies.from_name("bytes"),
  )
  return [pair.targets for pair in made]


@pytest.mark.shared
@pytest.mark.parametrize(
  ("dataset", "split", "rows", "blank_labels", "blank_rationales"),
  [
    ("svamp", "train", 800, 13, 11),
    ("svamp", "test", 200, 2, 2),
    ("cqa", "train", 9741, 3, 0),
    ("cqa", "test", 1221, 0, 0),
  ],
)
def test_the_released_completions_give_the_official_set(
  shared_data, dataset, split, rows, blank_labels, blank_rationales
):
  folder = shared_data / "dss_release"
  records = load_source_split(
    dataset, split, options=DataOptions(data_dir=str(folder))
  )
  labels = _pairs(dataset, records, subtasks.LABEL)
  rationales = _pairs(dataset, records, subtasks.RATIONALE)
  texts: list[str] = []
  number = 0
  while (
    path := folder / dataset / "llm" / f"{split}_CoT_{number}.json"
  ).exists():
    texts += json.loads(path.read_text())
    number += 1
  expected = [_official(dataset, text) for text in texts]
  assert list(zip(rationales, labels)) == expected
  assert len(expected) == rows
  assert labels.count("") == blank_labels
  assert rationales.count("") == blank_rationales


@pytest.mark.shared
def test_every_record_of_the_official_split_trains(shared_data):
  data = DataOptions(
    data_dir=str(shared_data / "dss_release"), split_policy="official"
  )
  examples = tokenization.build_examples(
    "svamp_dss_paired_teacher",
    "train",
    vocabularies.from_name("bytes"),
    data,
    OFFICIAL,
  )
  assert [len(subtask) for subtask in examples.subtasks] == [720, 720]
  assert examples.left_out == {"label": {}, "rationale": {}}


def test_the_committed_files_keep_every_record(fixtures):
  """Two completions have no answer, and one has no expression, or several."""
  for dataset in ("svamp", "cqa", "anli1"):
    records = load_source_split(
      dataset,
      "train",
      options=DataOptions(data_dir=str(fixtures / "release")),
    )
    labels = _pairs(dataset, records, subtasks.LABEL)
    unread = [r.id for r in records if r.rationales[0].label is None]
    assert len(labels) == len(records)
    assert unread == [r.id for r, label in zip(records, labels) if not label]
    assert len(unread) >= 1
