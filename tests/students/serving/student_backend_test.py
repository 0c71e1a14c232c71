"""A real student behind the server: its answers are the predictor's."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("fastapi")

import small_runs  # noqa: E402

from dss_jax import vocabularies  # noqa: E402
from dss_jax.base.errors import UserError  # noqa: E402
from dss_jax.cli import serve_command  # noqa: E402
from dss_jax.data.pairs import subtasks  # noqa: E402
from dss_jax.models import encoder_decoder  # noqa: E402
from dss_jax.students.predict_options import PredictOptions  # noqa: E402
from dss_jax.students.predictions import PredictInput  # noqa: E402
from dss_jax.students.predictor import Predictor  # noqa: E402
from dss_jax.students.serving import app, server, student_backend  # noqa: E402
from dss_jax.students.serving.jobs import Wanted  # noqa: E402
from dss_jax.students.serving.service import Service  # noqa: E402
from dss_jax.students.serving.settings import ServeSettings  # noqa: E402
from dss_jax.students.student import Student  # noqa: E402

LABELS = ("entailment", "neutral", "contradiction")


def _student(method: str) -> Student:
  vocabulary = small_runs.VOCABULARY
  model = encoder_decoder.EncoderDecoderModel(small_runs.SIZES)
  return Student(
    model=model,
    params=model.init(jax.random.key(0)),
    vocabulary=vocabulary,
    subtasks=subtasks.METHODS[method].subtasks,
    feature_lengths={"inputs": 24, "targets": 12},
    labels=LABELS,
    description={"source": "/secret/place/my_run", "step": 7},
  )


INPUTS = [
  "A poodle is in a kitchen.</s>An animal is in a room.",
  "A cat is in a 日本.",
  "An oak is in a garden. " * 20,
]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dss", "rationale_then_label"])
def test_answers_are_those_of_the_predictor(method):
  student = _student(method)
  outputs = student_backend.offered_outputs(student)
  assert outputs == ("label", "rationale")
  sizes = student_backend.declared_batch_sizes(4)
  assert sizes == [1, 4]
  backend = student_backend.StudentBackend(
    student, outputs, PredictOptions(), sizes, [24]
  )
  alone = Predictor(
    student, PredictOptions(("label", "rationale")), 4, lengths=[24]
  )
  expected = alone.predict([PredictInput(text) for text in INPUTS])

  async def run():
    ready = asyncio.Event()
    service = Service(
      backend,
      student_backend.card_of(student, outputs, PredictOptions()),
      ServeSettings(max_batch=4, timeout_s=300.0),
      on_ready=ready.set,
    )
    transport = httpx2.ASGITransport(app=app.make_app(service))
    service.batcher.start(asyncio.get_running_loop())
    async with asyncio.timeout(300):
      await ready.wait()
      async with httpx2.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=300
      ) as client:
        return [
          (
            await client.post(
              "/v1/predict",
              json={"inputs": INPUTS, "outputs": asked, "scores": True},
            )
          ).json()
          for asked in (["label", "rationale"], ["label"], ["rationale"])
        ]

  both, label, rationale = asyncio.run(run())
  assert both["model"] == {"name": "my_run", "step": 7}
  for i, prediction in enumerate(expected):
    reply = both["predictions"][i]
    assert reply["label"] == prediction.label
    assert reply["label_score"] == pytest.approx(
      prediction.label_score, abs=1e-5
    )
    assert reply["rationale"] == prediction.rationale
    assert reply["truncated"] == prediction.truncated == (i == 2)
    assert reply["unknown_tokens"] == prediction.unknown_tokens == (i == 1)
    if prediction.label_scores is not None:
      assert reply["label_scores"] == pytest.approx(
        dict(prediction.label_scores), abs=1e-5
      )
    assert label["predictions"][i]["label"] == prediction.label
    assert "rationale" not in label["predictions"][i]
    assert rationale["predictions"][i]["rationale"] == prediction.rationale
    assert "label" not in rationale["predictions"][i]


@pytest.mark.slow
def test_alternatives_are_the_best_and_a_single_text_is_found_as_without():
  """Labels of a closed set in order, and rationales by beam search."""
  student = _student("dss")
  outputs = ("label", "rationale")
  backend = student_backend.StudentBackend(
    student, outputs, PredictOptions(num_best=3), [4], [24]
  )
  items = [PredictInput(text) for text in INPUTS]
  single = Predictor(student, PredictOptions(outputs), 4, lengths=[24])
  several = Predictor(
    student, PredictOptions(outputs, num_best=3), 4, lengths=[24]
  )
  found = backend.predict(INPUTS, Wanted(outputs, 1))
  for answer, expected in zip(found, single.predict(items), strict=True):
    assert answer.alternatives == ()
    assert answer.rationale == expected.rationale
    assert answer.rationale_score == expected.rationale_score
    assert answer.label_score == expected.label_score
  found = backend.predict(INPUTS, Wanted(outputs, 2))
  for answer, expected in zip(found, several.predict(items), strict=True):
    labels, rationales = expected.alternatives[:3], expected.alternatives[3:]
    assert answer.alternatives == (*labels[:2], *rationales[:2])
    assert [a.label is None for a in answer.alternatives] == [
      *(False, False, True, True)
    ]
    assert answer.label == labels[0].label
    assert answer.rationale == rationales[0].rationale
    scores = answer.label_scores
    assert scores is not None
    assert sum(scores.values()) == pytest.approx(1)
    # The probability among the labels is that of their log-probabilities.
    weights = [math.exp(a.score) for a in labels]
    assert scores[labels[1].label or ""] == pytest.approx(
      weights[1] / sum(weights), rel=1e-5
    )
  found = backend.predict(INPUTS[:1], Wanted(("label",), 3))
  assert [a.rationale for a in found[0].alternatives] == [None] * 3


@pytest.mark.slow
def test_parameters_that_are_not_numbers_never_answer():
  """Whoever loaded them: neither the warm-up nor a request passes."""
  student = _student("dss")
  damaged = jax.tree.map(lambda x: x.at[...].set(jnp.nan), student.params)
  student = dataclasses.replace(student, params=damaged)
  for outputs in (("label",), ("rationale",)):
    backend = student_backend.StudentBackend(
      student, outputs, PredictOptions(), [1], [24]
    )
    with pytest.raises(UserError, match=r"no numbers; .* damaged"):
      backend.warm_up()
    with pytest.raises(UserError, match=r"no numbers; .* damaged"):
      backend.predict(["a"], Wanted(outputs))


def _untrained(method: str) -> Student:
  """Enough of a student for what comes before its first answer."""
  return Student(
    model=None,  # type: ignore[arg-type]
    params=None,
    vocabulary=vocabularies.from_name("taxonli"),
    subtasks=subtasks.METHODS[method].subtasks,
  )


def test_labels_are_for_what_writes_labels():
  options = PredictOptions(labels=("neutral", "entailment"))
  student = _untrained("dss")
  for outputs in (("label", "rationale"), ("label",)):
    student_backend.StudentBackend(student, outputs, options, [1])
  with pytest.raises(UserError, match="outputs does not have label"):
    student_backend.StudentBackend(student, ("rationale",), options, [1])


def test_a_student_that_reads_a_rationale_cannot_be_served():
  student = _untrained("rationale_as_input")
  with pytest.raises(UserError, match=r"reads a rationale .* `dss-jax infer`"):
    student_backend.StudentBackend(student, ("label",), PredictOptions(), [1])


def test_what_a_student_was_not_taught_cannot_be_offered():
  student = Student(model=None, params=None, vocabulary=None)  # type: ignore[arg-type]
  assert student_backend.offered_outputs(student) == ("label",)
  with pytest.raises(
    UserError, match=r"'rationale', which .* must be among label"
  ):
    student_backend.offered_outputs(student, ("rationale",))
  taught = dataclasses.replace(
    student, subtasks=subtasks.METHODS["dss"].subtasks
  )
  assert student_backend.offered_outputs(taught, ("rationale", "label")) == (
    "label",
    "rationale",
  )


def test_flags_become_the_backend(monkeypatch):
  """From the flags to what would be served, with no model."""
  parser = argparse.ArgumentParser()
  serve_command.add_arguments(parser)
  student = dataclasses.replace(
    Student(model=None, params=None, vocabulary=None),  # type: ignore[arg-type]
    subtasks=subtasks.METHODS["dss"].subtasks,
  )
  seen = {}
  monkeypatch.setattr(
    student_backend, "StudentBackend", lambda *args: seen.update(backend=args)
  )
  monkeypatch.setattr(server, "log_to_stderr", lambda: None)
  monkeypatch.setattr(
    server, "serve", lambda *args: seen.update(served=args) or 0
  )
  flags = ["--model_dir=x", "--port=0", "--max_batch=8", "--outputs=label"]
  flags += ["--num_best=5"]
  args = parser.parse_args([*flags, "--labels=b, a", "--lengths=64,16"])
  monkeypatch.setattr(
    serve_command.run_flags, "open_student", lambda _: student
  )
  assert serve_command.run(args) == 0
  _, outputs, options, sizes, lengths, _ = seen["backend"]
  assert (outputs, options.labels) == (("label",), ("b", "a"))
  assert (sizes, lengths) == ([1, 2, 8], [16, 64])
  assert options.num_best == 5
  card = seen["served"][1]
  assert (card.labels, card.num_best) == (("b", "a"), 5)
  for wrong in (
    *("--outputs=", "--outputs=label,", "--labels=", "--labels=a,a"),
    *("--num_best=0", "--num_best=65"),
  ):
    with pytest.raises(UserError, match=wrong[2:].partition("=")[0]):
      serve_command.run(parser.parse_args([*flags, wrong]))
  for lengths in ("", "x", "0", "1,-2", "9" * 30):
    args = parser.parse_args([*flags, f"--lengths={lengths}"])
    with pytest.raises(UserError, match="--lengths is"):
      serve_command.run(args)


def test_without_the_framework_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(
    serve_command.importlib.util, "find_spec", lambda name: None
  )
  parser = argparse.ArgumentParser()
  serve_command.add_arguments(parser)
  with pytest.raises(UserError, match=r"pip install 'dss_jax\[serve\]'"):
    serve_command.run(parser.parse_args(["--model_dir=x"]))
