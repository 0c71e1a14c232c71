"""The CTranslate2 format, by CTranslate2's own converter.

The converter reads the Hugging Face format. Two things are corrected on the way:
whether the logits are scaled, and the names of ids that no token has.
"""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.students.export import (
  answer_checks,
  formats,
  huggingface,
  model_card,
  tokenizer_files,
)
from dss_jax.students.student import Student

PACKAGES = ("ctranslate2", "safetensors", "torch", "transformers")
CHECK_PACKAGES = ()
HAS_TOKENIZER = True
OWN_DTYPE = False

_CONVERTED = ".converted"
_ACTIVATIONS = ("gelu", "relu", "silu", "swish")


def write(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> None:
  """Converts the student by way of the Hugging Face format."""
  activation = student.model.config.mlp_activations[0]
  if activation not in _ACTIVATIONS:
    raise UserError(
      f"mlp_activations has {activation!r}; CTranslate2 has"
      f" {', '.join(_ACTIVATIONS)}: export to huggingface or stablehlo",
      fields=("T5Config.mlp_activations", "format"),
    )
  converted = folder / _CONVERTED
  with huggingface.temporary_folder(student, folder) as source:
    _converter(student, source).convert(
      str(converted), quantization=options.quantization
    )
  for path in converted.iterdir():
    path.rename(folder / path.name)
  converted.rmdir()
  tokenizer_files.write(student, folder)


def _converter(student: Student, source: pathlib.Path) -> Any:
  from ctranslate2.converters import TransformersConverter

  class Converter(TransformersConverter):
    """Converts one student."""

    def load_model(self, model_class, model_name_or_path, **kwargs):
      model = super().load_model(model_class, model_name_or_path, **kwargs)
      # CTranslate2 scales the logits if the configuration ties the tables.
      # transformers 5 ties them in every T5, and scales by another field.
      config = student.model.config
      model.config.tie_word_embeddings = config.logits_via_embedding
      return model

    def load_tokenizer(self, tokenizer_class, model_name_or_path, **kwargs):
      del tokenizer_class, model_name_or_path, kwargs
      return _Names(
        tokenizer_files.pieces(
          student.vocabulary, student.model.config.vocab_size
        )
      )

  return Converter(str(source))


class _Names:
  """The part of a tokenizer that CTranslate2's converter needs.

  A real tokenizer has too few names, and the converter would call the remaining
  ids `<extra_id_0>` and so on, which may be names of tokens already.
  """

  pad_token, eos_token, unk_token = "<pad>", "</s>", "<unk>"

  def __init__(self, names: Sequence[str]):
    self._names = list(names)

  def get_vocab(self) -> dict[str, int]:
    return {name: i for i, name in enumerate(self._names)}

  def convert_ids_to_tokens(self, token_id: int) -> str:
    return self._names[token_id]


def answers(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> answer_checks.Answer:
  """Returns a function that answers with CTranslate2 on the CPU, greedily."""
  # A plain import would make type checkers take this module for the package.
  ctranslate2: Any = importlib.import_module("ctranslate2")

  translator = ctranslate2.Translator(
    str(folder), device="cpu", compute_type=options.quantization
  )
  names = tokenizer_files.pieces(
    student.vocabulary, student.model.config.vocab_size
  )
  ids = {name: i for i, name in enumerate(names)}

  def answer(
    inputs: Sequence[Sequence[int]], longest: int
  ) -> answer_checks.Answers:
    results = translator.translate_batch(
      [[names[token] for token in tokens] for tokens in inputs],
      beam_size=1,
      max_batch_size=answer_checks.BATCH_SIZE,
      max_input_length=0,
      max_decoding_length=longest,
      min_decoding_length=0,
      length_penalty=0,
      return_scores=True,
    )
    outputs = [
      answer_checks.until_end([ids[token] for token in result.hypotheses[0]])
      for result in results
    ]
    scores = [result.scores[0] for result in results]
    return answer_checks.Answers(outputs, np.asarray(scores, np.float32))

  return answer


def usage(student: Student, options: formats.ExportOptions) -> str:
  """How to ask the folder with CTranslate2."""
  return f"""\
With CTranslate2, and transformers for the tokens; `min_decoding_length=0` lets
an output be empty:

```python
import ctranslate2, transformers

tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")
translator = ctranslate2.Translator("FOLDER", compute_type="{options.quantization}")
ids = {model_card.tokenizing(student)}.input_ids
tokens = tokenizer.convert_ids_to_tokens(ids)
result = translator.translate_batch(
    [tokens], beam_size=1, min_decoding_length=0,
    max_decoding_length={answer_checks.output_tokens(student)})[0]
print(tokenizer.decode(tokenizer.convert_tokens_to_ids(result.hypotheses[0])))
```"""
