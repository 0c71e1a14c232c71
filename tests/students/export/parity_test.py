"""Exported students answer in other programs as they do here."""

import dataclasses
import importlib
import json
import re
import runpy
import subprocess
import sys

import huggingface_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.models.config import T5Config
from dss_jax.students.export import (
  answer_checks,
  checked_export,
  formats,
  huggingface,
)

pytestmark = [pytest.mark.hf, pytest.mark.slow]

COUNT = 24


@pytest.mark.parametrize("name", ["t5_1_0", "t5_1_1"])
def test_transformers_models_go_round(
  make_student, recipe, fixtures, tmp_path, name
):
  """transformers -> dss_jax -> transformers: nothing changes on the way.

  The numbers to compare with are transformers' own, before (`make_parity.py`);
  that ours are the same is tested in `tests/models/parity_test.py`.
  """
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  family = next(f for f in recipe.FAMILIES if f.name == name)
  with np.load(fixtures / "parity" / f"{name}.npz") as file:
    before = dict(file)
  weights = {
    key.removeprefix("weights/"): value
    for key, value in before.items()
    if key.startswith("weights/")
  }
  config = T5Config(**family.config_fields())
  params = huggingface_folders.params(weights, config)
  student = make_student(config, params=jax.tree.map(jnp.asarray, params))
  huggingface.write(student, tmp_path)
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
  for key, value in weights.items():
    found = model.state_dict()[key].numpy()
    np.testing.assert_array_equal(found, value, err_msg=key)
  encoder = before["encoder_input_tokens"]
  logits = recipe.teacher_forced(model, encoder, before["decoder_input_tokens"])
  np.testing.assert_allclose(logits, before["logits"], atol=1e-4)
  greedy, _ = recipe.generate(model, encoder)
  np.testing.assert_array_equal(greedy, before["greedy_tokens"])
  assert min(len(set(row[row > 0])) for row in greedy) >= 8
  penalty, stopping = recipe.BEAM_SETTINGS[0]
  beams, _ = recipe.generate(
    model,
    encoder,
    num_beams=recipe.NUM_BEAMS,
    num_return_sequences=recipe.NUM_BEAMS,
    length_penalty=penalty,
    early_stopping=stopping,
  )
  expected = before["beam_tokens/0"]
  np.testing.assert_array_equal(beams.reshape(expected.shape), expected)


def _export(student, output, name, options=None, **more):
  return checked_export.export(
    student,
    str(output),
    name,
    options,
    **{"count": COUNT, **more},
  )


def _need(name):
  """Skips where packages that a format is made or checked with are missing."""
  form = importlib.import_module(f"dss_jax.students.export.{name}")
  for package in (*form.PACKAGES, *form.CHECK_PACKAGES):
    pytest.importorskip(package)


@pytest.mark.parametrize(
  ("family", "name"),
  [
    ("t5_1_0", "huggingface"),
    ("t5_1_1", "huggingface"),
    ("umt5", "huggingface"),
    ("t5_1_0", "ctranslate2"),
    ("t5_1_1", "ctranslate2"),
    ("umt5", "ctranslate2"),
    ("t5_1_1", "onnx"),
    ("umt5", "onnx"),
    ("t5_1_1", "t5x"),
  ],
)
def test_outputs_and_probabilities_are_the_students(
  student_of, tmp_path, family, name
):
  _need(name)
  student = student_of(family)
  (agreement,) = _export(student, tmp_path / "out", name)
  assert agreement.outputs == agreement.labels == COUNT
  assert agreement.score_difference is not None
  assert agreement.score_difference < 1e-3
  ours = answer_checks.student_answers(student)
  inputs = answer_checks.questions(student, COUNT)[0].inputs
  distinct = {token for out in ours(inputs, 12).outputs for token in out}
  assert len(distinct) >= 8
  left = sorted(path.name for path in tmp_path.iterdir())
  assert left == ["out"]
  assert not [p for p in (tmp_path / "out").iterdir() if p.name[0] == "."]


@pytest.mark.parametrize("name", ["huggingface", "ctranslate2", "onnx"])
def test_the_cards_snippet_cuts_inputs_as_training_did(
  make_student, student_of, tmp_path, capfd, name
):
  """It is run as it stands in the card, on a text of three times the length."""
  _need(name)
  config = student_of("t5_1_1").model.config
  known = vocabularies.from_name("taxonli").vocab_size
  # Whatever is written has a text.
  name_of = f"taxonli:{config.vocab_size - known}"
  student = make_student(config, vocabulary=name_of)
  longest = student.feature_lengths["inputs"]
  folder = tmp_path / "out"
  _export(student, folder, name, count=0)
  text = "abc" * longest
  (code,) = re.findall(
    "```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S
  )
  assert code.count("TEXT") == 1
  script = tmp_path / "snippet.py"
  path = str(folder)
  script.write_text(code.replace("TEXT", text).replace("FOLDER", path))
  capfd.readouterr()
  found = runpy.run_path(str(script))
  assert "tied weights" not in capfd.readouterr().err
  ids = (
    found["ids"] if name == "ctranslate2" else found["batch"]["input_ids"][0]
  )
  wanted = student.vocabulary.encode(
    student.input_text(student.subtasks[0], text)
  )
  assert list(map(int, ids)) == vocabularies.with_eos(wanted, longest)


def test_a_deeper_decoder_generates_too(make_student, student_of, tmp_path):
  _need("huggingface")
  config = student_of("t5_1_1").model.config
  deeper = dataclasses.replace(
    config, num_encoder_layers=1, num_decoder_layers=3
  )
  (agreement,) = _export(make_student(deeper), tmp_path / "out", "huggingface")
  assert agreement.outputs == COUNT


@pytest.mark.parametrize("name", ["huggingface", "ctranslate2"])
def test_a_wrong_conversion_is_not_handed_over(
  student_of, tmp_path, monkeypatch, name
):
  """Scaling the logits leaves greedy outputs alone; probabilities tell."""
  _need(name)
  student = student_of("t5_1_1")
  right = huggingface.model_config

  def wrong(student):
    tied = not student.model.config.logits_via_embedding
    return right(student) | {
      "tie_word_embeddings": tied,
      "scale_decoder_outputs": tied,
    }

  if name == "huggingface":
    monkeypatch.setattr(huggingface, "model_config", wrong)
  else:
    from ctranslate2.converters import transformers as converters

    # As if the converter's own reading of the configuration stood.
    monkeypatch.setattr(
      converters.T5Loader,
      "get_model_spec",
      _always_scaled(converters.T5Loader.get_model_spec),
    )
  with pytest.raises(UserError, match="nothing was written"):
    _export(student, tmp_path / "out", name)
  assert list(tmp_path.iterdir()) == []


def _always_scaled(get_model_spec):
  def changed(self, model):
    model.config.tie_word_embeddings = True
    return get_model_spec(self, model)

  return changed


def test_int8_is_smaller_and_reports_its_agreement(student_of, tmp_path):
  _need("ctranslate2")
  student = student_of("t5_1_1")
  options = formats.ExportOptions(quantization="int8")
  _export(student, tmp_path / "float", "ctranslate2")
  (agreement,) = _export(
    student, tmp_path / "int8", "ctranslate2", options, least=0.0
  )
  sizes = [
    (tmp_path / name / "model.bin").stat().st_size for name in ("float", "int8")
  ]
  assert sizes[1] < 0.5 * sizes[0]
  assert str(agreement) in (tmp_path / "int8" / "README.md").read_text()


_FRESH = """
import json, sys
sys.modules["dss_jax"] = None
sys.path.insert(0, {folder!r})
import run
student = run.Student()
inputs = json.loads({inputs!r})
found = [student(inputs[:1]), student(inputs)]
print(json.dumps([[outputs, scores.tolist()] for outputs, scores in found]))
"""


@pytest.mark.parametrize(
  ("family", "num_beams"),
  [("t5_1_1", 2), pytest.param("t5_1_0", 1, marks=pytest.mark.thorough)],
)
def test_a_program_runs_in_a_process_without_us(
  student_of, tmp_path, family, num_beams
):
  _need("stablehlo")
  student = student_of(family)
  options = formats.ExportOptions(num_beams=num_beams)
  folder = tmp_path / "out"
  _export(student, folder, "stablehlo", options)
  inputs = answer_checks.questions(student, 5)[0].inputs
  program = _FRESH.format(folder=str(folder), inputs=json.dumps(inputs))
  done = subprocess.run(
    [sys.executable, "-I", "-c", program],
    capture_output=True,
    text=True,
    timeout=300,
    check=True,
  )
  one, all_ = json.loads(done.stdout)
  answers = answer_checks.student_answers(student, num_beams)(inputs, 12)
  assert all_[0] == answers.outputs
  assert answers.scores is not None
  np.testing.assert_allclose(all_[1], answers.scores, atol=1e-4)
  assert one[0] == answers.outputs[:1]
  # Nothing in it tells of this machine.
  data = (folder / "program.jax_export").read_bytes()
  assert not re.search(rb"\.py\b", data)
