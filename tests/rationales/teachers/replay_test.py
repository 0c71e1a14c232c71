"""The released completions, replayed: the published counts come out."""

import collections

import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, completions
from dss_jax.datasets.records import Record
from dss_jax.rationales import prompt_files
from dss_jax.rationales.completion_parsing import parse, same_answer
from dss_jax.rationales.teachers.replay import Replay


def _replay(dataset, split, options, parser):
  """Statuses, answers missing, and percent that are the gold label."""
  prompt = prompt_files.load("anli" if dataset.startswith("anli") else dataset)
  teacher = Replay(dataset, split, options)
  statuses, unparsed, right = collections.Counter(), 0, 0
  records = datasets.load_source_split(dataset, split, options=options)
  for record in records:
    completion = teacher.answer(record)
    assert completion is not None
    parsed = parse(prompt, record, completion, parser)
    read = completions.parser(dataset, parser, options.rationale_source)
    assert parsed == read(completion.text, record.meta.get("choices"))
    statuses[parsed.status] += 1
    unparsed += parsed.label is None
    if parsed.label is not None:
      gold = record.label or ""
      # The published counts of texts are of exactly equal ones.
      right += (
        same_answer(prompt, parsed.label, gold)
        if parser == "tolerant" or dataset == "svamp"
        else parsed.label == gold
      )
  return statuses, unparsed, 100 * right / len(records)


@pytest.mark.shared
@pytest.mark.parametrize(
  ("dataset", "split", "unparsed", "official", "tolerant"),
  [
    ("svamp", "train", 13, 73.25, 73.25),
    ("svamp", "test", 2, 74.00, 74.00),
    pytest.param("cqa", "train", 3, 74.26, 76.82, marks=pytest.mark.thorough),
    ("cqa", "test", 0, 77.23, 79.36),
  ],
)
def test_published_counts(
  shared_data, dataset, split, unparsed, official, tolerant
):
  options = DataOptions(data_dir=str(shared_data / "dss_release"))
  _, missing, right = _replay(dataset, split, options, "official")
  assert missing == unparsed
  assert round(right, 2) == official
  _, _, right = _replay(dataset, split, options, "tolerant")
  assert round(right, 2) == tolerant


@pytest.mark.parametrize("dataset", ["cqa", "svamp", "esnli", "anli1"])
@pytest.mark.parametrize("parser", ["official", "tolerant"])
def test_replay_is_what_loading_reads(fixtures, dataset, parser):
  options = DataOptions(data_dir=str(fixtures / "release"), parser=parser)
  for split in ("train", "test"):
    statuses, unparsed, _ = _replay(dataset, split, options, parser)
    loaded = datasets.load_source_split(dataset, split, options=options)
    rationales = [rationale for r in loaded for rationale in r.rationales]
    assert statuses == collections.Counter(r.status for r in rationales)
    assert unparsed == sum(r.label is None for r in rationales)


def test_the_other_teacher(fixtures):
  options = DataOptions(
    data_dir=str(fixtures / "release"), rationale_source="gpt-neox"
  )
  assert Replay("svamp", "test", options).name == "gpt-neox"
  _replay("svamp", "train", options, "official")


def test_validation_records_of_training_files(fixtures):
  options = DataOptions(data_dir=str(fixtures / "release"))
  teacher = Replay("cqa", "validation", options)
  records = datasets.load_split("cqa", "validation", options=options)
  assert records
  assert all(teacher.answer(record) is not None for record in records)
  # Records of other files are found as well.
  tests = datasets.load_split("cqa", "test", options=options)
  assert teacher.answer(tests[0]) == Replay("cqa", "test", options).answer(
    tests[0]
  )


def test_unknown_records_have_no_answer(fixtures):
  options = DataOptions(data_dir=str(fixtures / "release"))
  teacher = Replay("svamp", "train", options)
  for name in (
    "train-999999999",
    "train--1",
    "train-1x",
    "mine",
    "train-\u0661",
  ):
    assert teacher.answer(Record(name, "Who?")) is None


def test_what_cannot_be_replayed(fixtures):
  options = DataOptions(data_dir=str(fixtures / "release"))
  with pytest.raises(UserError, match="no completions were released for"):
    Replay("taxonli", "train", options)
  human = DataOptions(data_dir="x", rationale_source="human")
  with pytest.raises(UserError, match="human rationales are no completions"):
    Replay("cqa", "train", human)
  with pytest.raises(UserError, match="no folder 'svamp'"):
    Replay("svamp", "train", DataOptions(data_dir=str(fixtures)))
