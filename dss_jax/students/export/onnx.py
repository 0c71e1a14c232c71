"""The ONNX format: encoder and decoder as two graphs, by torch's exporter.

The graphs come from transformers' T5 with our weights. Only torch's newer
exporter (`dynamo=True`) is right; the older one writes, without a warning,
graphs that answer differently.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from dss_jax.students.export import (
  answer_checks,
  formats,
  huggingface,
  model_card,
  tokenizer_files,
)
from dss_jax.students.student import Student

PACKAGES = ("onnx", "onnxscript", "safetensors", "torch", "transformers")
CHECK_PACKAGES = ("onnxruntime",)
HAS_TOKENIZER = True
OWN_DTYPE = False

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"


def write(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> None:
  """Writes both graphs and the tokenizer."""
  del options
  import torch
  import transformers

  with huggingface.temporary_folder(student, folder) as source:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
      source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
  with _quiet(), torch.no_grad():
    _export_graphs(model, folder)
  for file in (ENCODER_FILE, DECODER_FILE):
    _forget_sources(folder / file)
  tokenizer_files.write(student, folder)


def _export_graphs(model: Any, folder: pathlib.Path) -> None:
  import torch

  class Encoder(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.model = model

    def forward(self, input_ids, attention_mask):
      return self.model.encoder(
        input_ids=input_ids, attention_mask=attention_mask
      ).last_hidden_state

  class Decoder(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.model = model

    def forward(self, decoder_input_ids, encoder_hidden_states, attention_mask):
      return self.model(
        encoder_outputs=(encoder_hidden_states,),
        attention_mask=attention_mask,
        decoder_input_ids=decoder_input_ids,
        use_cache=False,
      ).logits

  # The sizes do not matter, but the exporter would take 0 and 1 for fixed.
  ids, mask = torch.full((2, 7), 3), torch.ones((2, 7), dtype=torch.long)
  hidden = torch.zeros((2, 7, model.config.d_model))
  written = torch.full((2, 5), 3)
  for module, arguments, file, inputs, output in (
    (
      Encoder(),
      (ids, mask),
      ENCODER_FILE,
      ["input_ids", "attention_mask"],
      "encoder_hidden_states",
    ),
    (
      Decoder(),
      (written, hidden, mask),
      DECODER_FILE,
      ["decoder_input_ids", "encoder_hidden_states", "attention_mask"],
      "logits",
    ),
  ):
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
      module.eval(),
      arguments,
      str(folder / file),
      dynamo=True,
      dynamic_shapes=tuple(dynamic for _ in arguments),
      input_names=inputs,
      output_names=[output],
      verbose=False,
    )


def _forget_sources(path: pathlib.Path) -> None:
  """Removes the paths on this machine that each node came from."""
  # A plain import would make type checkers take this module for the package.
  onnx: Any = importlib.import_module("onnx")

  model = onnx.load(path, load_external_data=False)
  for graph in (model.graph, *model.functions):
    for node in graph.node:
      del node.metadata_props[:]
      node.doc_string = ""
  onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences torch about its own parts and packages that are not needed."""
  logger = logging.getLogger("torch.onnx")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    logger.setLevel(level)


def answers(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> answer_checks.Answer:
  """Returns a function that answers with ONNX Runtime on the CPU, greedily."""
  del student, options
  import onnxruntime

  encoder, decoder = (
    onnxruntime.InferenceSession(
      str(folder / file), providers=["CPUExecutionProvider"]
    )
    for file in (ENCODER_FILE, DECODER_FILE)
  )

  return answer_checks.answer_in_batches(
    functools.partial(_greedy, encoder, decoder)
  )


def _greedy(
  encoder: Any,
  decoder: Any,
  tokens: np.ndarray,
  mask: np.ndarray,
  longest: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Greedy tokens [batch, <= longest] and their log-probabilities [batch]."""
  (hidden,) = encoder.run(None, {"input_ids": tokens, "attention_mask": mask})
  written = np.zeros((len(tokens), 1), np.int64)  # 0 begins an output
  scores = np.zeros(len(tokens), np.float32)
  running = np.ones(len(tokens), bool)
  while written.shape[1] <= longest and running.any():
    (logits,) = decoder.run(
      None,
      {
        "decoder_input_ids": written,
        "encoder_hidden_states": hidden,
        "attention_mask": mask,
      },
    )
    last = logits[:, -1].astype(np.float64)
    best = last.argmax(axis=-1)
    top = last.max(axis=-1)
    total = np.log(np.exp(last - top[:, None]).sum(axis=-1))
    scores -= np.where(running, total, 0)
    written = np.concatenate(
      [written, np.where(running, best, 0)[:, None]], axis=1
    )
    running &= best != 1
  return written[:, 1:], scores


def usage(student: Student, options: formats.ExportOptions) -> str:
  """How to decode with ONNX Runtime."""
  del options
  return f"""\
`{ENCODER_FILE}` and `{DECODER_FILE}` (weights in `*.data` next to them) take
batches of any size and length. The decoder keeps no cache: it reads all that is
written so far. Greedy decoding with ONNX Runtime:

```python
import numpy as np, onnxruntime, transformers

tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")
encoder = onnxruntime.InferenceSession("FOLDER/{ENCODER_FILE}")
decoder = onnxruntime.InferenceSession("FOLDER/{DECODER_FILE}")
batch = {model_card.tokenizing(student, 'return_tensors="np"')}
read = {{"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}}
hidden = encoder.run(None, read)[0]
written = np.zeros((1, 1), np.int64)
while written.shape[1] <= {answer_checks.output_tokens(student)} and written[0, -1] != 1:
    logits = decoder.run(None, {{
        "decoder_input_ids": written,
        "encoder_hidden_states": hidden,
        "attention_mask": read["attention_mask"]}})[0]
    written = np.concatenate([written, logits[:, -1:].argmax(-1)], axis=1)
print(tokenizer.decode(written[0], skip_special_tokens=True))
```"""
