"""Finding labels and rationales in outputs, whatever a vocabulary writes."""

import pytest

from dss_jax import vocabularies
from dss_jax.data.pairs import subtasks
from dss_jax.data.pairs.output_reading import OutputReader
from dss_jax.data.pairs.subtasks import METHODS, MethodOptions
from dss_jax.vocabularies import ByteVocabulary

OPTIONS = MethodOptions()


def _reader(method, options=OPTIONS, vocabulary=None):
  (subtask,) = METHODS[method].subtasks
  return OutputReader.of(subtask, options, vocabulary or ByteVocabulary())


@pytest.mark.parametrize(
  ("method", "text", "label", "rationale"),
  [
    ("label", " yes ", "yes", None),
    ("rationale_then_label", "since [label] yes", "yes", "since"),
    ("rationale_then_label", "a [label] b[label] yes", "yes", "a [label] b"),
    ("rationale_then_label", "[label] yes", "yes", ""),
    ("rationale_then_label", "since yes", "", "since yes"),
    ("rationale_then_label", "", "", ""),
    (
      "label_then_rationale",
      "yes [rationale] so [rationale] x",
      "yes",
      "so [rationale] x",
    ),
    ("label_then_rationale", "yes", "yes", ""),
    ("rationale", " since ", None, "since"),
  ],
)
def test_label_and_rationale_are_told_apart(method, text, label, rationale):
  reader = _reader(method)
  assert reader.label_and_rationale(text) == (label, rationale)
  if label is None:
    assert reader.label(text) == rationale


def test_labels_are_found_by_the_separator_trained_with():
  options = MethodOptions(label_separator=" So the answer is ")
  reader = _reader("rationale_then_label", options)
  assert reader.label("It is. So the answer is no") == "no"
  assert reader.label("It is. [label] no") == ""


@pytest.mark.parametrize(
  "method", ["rationale_then_label", "label_then_rationale"]
)
@pytest.mark.parametrize(
  "separators",
  [
    {},  # brackets, which the model lacks
    {"label_separator": " <so> ", "rationale_separator": " <so> "},
    {"label_separator": "\n\nso: ", "rationale_separator": "\n\nso: "},
    {"label_separator": "  so  ", "rationale_separator": "  so  "},
    {"label_separator": "\uff33\uff4f ", "rationale_separator": "\uff33 "},
  ],
)
def test_separators_are_found_as_the_vocabulary_writes_them(
  method, separators, plain_vocabulary
):
  options = MethodOptions(**separators)
  (subtask,) = METHODS[method].subtasks
  fields = {"label": "a cat", "rationale": "it says so"}
  text = subtasks.fill(subtask.target_parts(options), fields)
  written = plain_vocabulary.decode(plain_vocabulary.encode(text))
  reader = _reader(method, options, plain_vocabulary)
  assert reader.label_and_rationale(written) == ("a cat", "it says so")


def test_a_separator_that_the_vocabulary_drops_is_never_found(plain_vocabulary):
  options = MethodOptions(label_separator="\x01", rationale_separator="\x01")
  assert plain_vocabulary.encode("\x01") == []
  reader = _reader("rationale_then_label", options, plain_vocabulary)
  assert reader.label_and_rationale("since yes") == ("", "since yes")
  reader = _reader("label_then_rationale", options, plain_vocabulary)
  assert reader.label_and_rationale("yes since") == ("yes since", "")


def test_added_tokens_bring_a_separator_back(plain_model):
  words = vocabularies.from_name(f'{plain_model}+["[", "]"]')
  reader = _reader("rationale_then_label", vocabulary=words)
  text = words.decode(words.encode("it is [label] a cat"))
  assert text == "it is [label] a cat"
  assert reader.label(text) == "a cat"
