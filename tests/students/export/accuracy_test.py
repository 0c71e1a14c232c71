"""A student that has learnt its task keeps it in every form.

`fixtures/taxonli_student.npz` is the best checkpoint, in half precision, of

    dss-jax train --gin_file=models/taxonli.gin --gin_file=runs/taxonli.gin \\
      --gin_file=data/taxonli.gin --gin_file=methods/dss.gin \\
      --gin.TRAIN_STEPS=3600 --gin.EVAL_PERIOD=300 --gin.MODEL_DIR=...
"""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.data.tokens import evaluation_sets, tokenization
from dss_jax.models.config import T5Config
from dss_jax.students.export import answer_checks, checked_export, formats

pytestmark = [pytest.mark.hf, pytest.mark.slow]

LABELS = ("entailment", "neutral", "contradiction")
COUNT = 1000
LENGTHS = {"inputs": 48, "targets": 64}


@pytest.fixture(scope="module")
def taxonli(make_student, fixtures):
  """The student."""
  params: dict = {}
  with np.load(fixtures / "taxonli_student.npz") as file:
    arrays = dict(file)
  for name, array in arrays.items():
    *parents, last = name.split("/")
    node = params
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = jnp.asarray(array, jnp.float32)
  config = T5Config(
    vocab_size=208,
    emb_dim=48,
    num_heads=3,
    head_dim=16,
    mlp_dim=96,
    num_encoder_layers=2,
    num_decoder_layers=2,
  )
  return make_student(
    config=config,
    params=params,
    vocabulary="taxonli",
    feature_lengths=LENGTHS,
    labels=LABELS,
    description={"task": "taxonli_dss", "dataset": "taxonli"},
  )


@pytest.fixture(scope="module")
def test_set(taxonli):
  source = tokenization.TaskSource.load(
    "taxonli_label", "test", taxonli.vocabulary, feature_lengths=LENGTHS
  )
  found = evaluation_sets.build_evaluations(source)["label"]
  assert len(found) == COUNT
  return found


@pytest.fixture(scope="module")
def labels(taxonli, test_set):
  """What the student says of each test input."""
  outputs = answer_checks.student_answers(taxonli)(test_set.inputs, 8).outputs
  return test_set.predictions([taxonli.vocabulary.decode(o) for o in outputs])


def _accuracy(test_set, predictions):
  return test_set.score(predictions)["accuracy"]


def _export(taxonli, folder, name, options=formats.ExportOptions()):  # noqa: B008
  label, rationale = checked_export.export(
    taxonli,
    str(folder),
    name,
    options,
    count=8,
  )
  assert label.count == rationale.count == 8


def test_the_student_has_learnt_its_task(test_set, labels):
  assert _accuracy(test_set, labels) >= 0.85
  counts = collections.Counter(labels)
  assert set(counts) == set(LABELS)
  assert min(counts.values()) >= 0.2 * COUNT


def test_transformers_gives_the_same_labels(
  taxonli, test_set, labels, tmp_path
):
  """By its own tokenizer, from text to text."""
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  _export(taxonli, tmp_path / "out", "huggingface")
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
  said = []
  for start in range(0, COUNT, 250):
    batch = tokenizer(
      test_set.input_texts[start : start + 250],
      padding=True,
      return_tensors="pt",
    )
    outputs = model.generate(**batch, max_new_tokens=8)
    said += tokenizer.batch_decode(outputs, skip_special_tokens=True)
  assert said == labels


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_ctranslate2_gives_the_same_labels(
  taxonli, test_set, labels, tmp_path, quantization
):
  ctranslate2 = pytest.importorskip("ctranslate2")
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  options = formats.ExportOptions(quantization=quantization)
  _export(taxonli, tmp_path / "out", "ctranslate2", options)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  translator = ctranslate2.Translator(
    str(tmp_path / "out"), compute_type=quantization
  )
  results = translator.translate_batch(
    [
      tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
      for text in test_set.input_texts
    ],
    beam_size=1,
    min_decoding_length=0,
    max_decoding_length=8,
  )
  said = [
    tokenizer.decode(tokenizer.convert_tokens_to_ids(result.hypotheses[0]))
    for result in results
  ]
  same = sum(a == b for a, b in zip(said, labels, strict=True))
  if quantization == "float32":
    assert same == COUNT
  else:
    assert same >= 0.99 * COUNT
    difference = _accuracy(test_set, said) - _accuracy(test_set, labels)
    assert abs(difference) <= 0.01
