"""Training, `dss-jax eval` and `dss-jax infer` give the same record one score."""

import collections
import dataclasses
import itertools
import json

import jax
import pytest
import small_runs

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.data.tokens import evaluation_sets, tokenization
from dss_jax.datasets import records as records_lib
from dss_jax.datasets.records import FieldMapping, Rationale, Record
from dss_jax.models.decoding import generation
from dss_jax.models.decoding.decode_options import DecodeOptions
from dss_jax.students import checkpoint_evaluation
from dss_jax.students import student as student_lib
from dss_jax.students.bulk import bulk_inference
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.predictor import Predictor
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training import train as train_lib

METHODS = (
  "standard",
  "label",
  "rationale_then_label",
  "label_then_rationale",
  "rationale_as_input",
)
DECODING = {
  "greedy": DecodeOptions(),
  "beam": DecodeOptions("beam", num_beams=3),
  "huggingface beam": DecodeOptions(
    "beam", num_beams=2, convention="huggingface"
  ),
}


def _records(texts, labels):
  rationale = (Rationale("since it says so"),)
  return [
    Record(f"r{i}", text, label, rationales=rationale)
    for i, (text, label) in enumerate(zip(texts, labels, strict=True))
  ]


_names = itertools.count()


def _evaluate(student, method, records, decode):
  """What training's evaluation says: the predictions and the accuracy."""
  name = f"scored{next(_names)}"
  datasets.register(datasets.DatasetSpec(name, lambda split, options: records))
  (evaluation,) = evaluation_sets.build_evaluations(
    tokenization.TaskSource.load(
      f"{name}_{method}",
      "test",
      student.vocabulary,
      method_options=student.options,
      feature_lengths=student.feature_lengths,
    )
  ).values()
  generator = generation.Generator(
    student.model, student.partitioner, decode, batch_size=8
  )
  evaluator = evaluation_lib.Evaluator(
    generator, student.vocabulary, [evaluation]
  )
  (scores,) = evaluator.run(student.params)
  labels = [line["prediction"] for line in scores.predictions]
  return labels, scores.metrics["accuracy"]


def _infer(student, records, folder, **options):
  """What `dss-jax infer` says of the same records."""
  source, output = folder / "in.jsonl", folder / "out.jsonl"
  records_lib.write_records(str(source), records)
  predictor = Predictor(student, PredictOptions(("label",), **options), 8)
  bulk_inference.infer(
    predictor,
    bulk_inference.Source(str(source), "jsonl", FieldMapping()),
    bulk_inference.Target(str(output), overwrite=True),
  )
  lines = list(map(json.loads, output.read_text().splitlines()))
  correct = [line["correct"] for line in lines]
  return [line["label"] for line in lines], sum(correct) / len(correct)


@pytest.fixture
def make_student(new_student):
  """A student of random weights without a closed set of labels."""

  def make(method, **changes):
    student = new_student(method, labels=None, **changes)
    params = jax.device_put(student.params, jax.devices()[0])
    return dataclasses.replace(student, params=params)

  return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
  "decode",
  ["greedy", "beam", pytest.param("huggingface beam", marks=pytest.mark.slow)],
)
def test_outputs_and_scores_are_the_same(
  method, decode, make_student, texts, tmp_path
):
  texts, options = texts[:12], DECODING[decode]
  blank = _records(texts, ["?"] * len(texts))
  # What random weights write holds no separator but a word of its own.
  written, _ = _evaluate(make_student("standard"), "standard", blank, options)
  words = collections.Counter(w for text in written for w in text.split())
  separator = f" {words.most_common(1)[0][0]} "
  student = make_student(
    method,
    options=MethodOptions(
      label_separator=separator, rationale_separator=separator
    ),
  )
  answers, _ = _evaluate(student, method, blank, options)
  assert len(set(answers)) > 1
  # Some are right, whatever a student of random weights writes.
  gold = [a if i % 3 and a else f"not {a}" for i, a in enumerate(answers)]
  records = _records(texts, gold)
  evaluated = _evaluate(student, method, records, options)
  inferred = _infer(student, records, tmp_path, decode=options, constrain=False)
  assert evaluated == inferred
  right = sum(bool(i % 3 and a) for i, a in enumerate(answers))
  assert evaluated[1] == pytest.approx(right / 12)
  assert right


def test_labels_that_are_scored_are_compared_with_the_same_text(
  make_student, texts, tmp_path
):
  """With a closed set; spelt otherwise where only the spelling may differ."""
  student = dataclasses.replace(
    make_student("label"), labels=("entailment", "neutral", "contradiction")
  )
  records = _records(texts[:12], ["neutral"] * 12)
  labels, accuracy = _infer(student, records, tmp_path)
  assert set(labels) <= set(student.labels)
  assert accuracy == labels.count("neutral") / 12
  respelt = _records(texts[:12], [f" {label}\t" for label in labels])
  assert _infer(student, respelt, tmp_path) == (labels, 1.0)


def test_a_run_an_evaluation_of_it_and_its_answers_have_one_score(tmp_path):
  config = small_runs.config(tmp_path / "run", total_steps=12)
  run = train_lib.train(config)
  for split in ("validation", "test"):
    (entry,) = (e for e in run.results if e["split"] == split)
    _, (scores,) = checkpoint_evaluation.evaluate_checkpoint(
      config, split=split
    )
    records = datasets.load_split(
      "taxonli", split, options=config.train_dataset_cfg.data
    )
    student = student_lib.load_run(config)
    labels, accuracy = _infer(student, records, tmp_path, constrain=False)
    assert labels == [line["prediction"] for line in scores.predictions]
    assert entry["value"] == scores.metrics["accuracy"] == accuracy


def test_what_cannot_be_read_or_written_is_counted(
  make_student, plain_vocabulary, tmp_path, capsys
):
  student = make_student("label", vocabulary=plain_vocabulary)
  records = _records(
    ["a cat is in", "a {cat} is <in>", "it is red"], ["yes", "{", "no"]
  )
  _infer(student, records, tmp_path, constrain=False)
  lines = (tmp_path / "out.jsonl").read_text().splitlines()
  unknown = [json.loads(line).get("unknown_tokens") for line in lines]
  assert unknown == [None, 4, None]  # the prefix's own two are not counted
  said = capsys.readouterr().err.splitlines()
  assert said[0].startswith("the vocabulary lacks '[', ']' of '[label] '")
  assert "1 with a label that the student cannot write, thus wrong" in said[-1]
  encode = plain_vocabulary.encode
  total = sum(len(encode(f"[label] {r.input}")) + 1 for r in records)
  assert f"{100 * 4 / total:.2g} % of the tokens read unknown" in said[-1]
  # A closed set that it cannot write is refused.
  with pytest.raises(UserError, match=r"labels '\{': give others, or set"):
    Predictor(student, PredictOptions(("label",), labels=("{", "yes")))
