"""Runs an exported student: `python run.py TEXT ...`, one output a line.

Needs jax, flatbuffers, safetensors and transformers; stands alone next to the
files it reads.
"""

import pathlib
import sys

import jax
import numpy as np
import safetensors.numpy

FOLDER = pathlib.Path(__file__).resolve().parent


class Student:
  """A program, its parameters, and the inputs it takes."""

  def __init__(self, folder=FOLDER):
    data = bytearray((folder / "program.jax_export").read_bytes())
    exported = jax.export.deserialize(data)
    self._call = jax.jit(exported.call)
    params = safetensors.numpy.load_file(folder / "params.safetensors")
    for name, value in params.items():
      if not np.isfinite(value).all():
        sys.exit(f"params.safetensors is damaged: {name} is not finite")
    self._params = jax.device_put(params)  # once, not with every call
    self.input_length = exported.in_avals[-1].shape[1]

  def __call__(self, inputs):
    """Lists of token ids, each ending with 1 -> (lists of ids, scores)."""
    batch = np.zeros((len(inputs), self.input_length), np.int32)
    for row, ids in enumerate(inputs):
      if len(ids) > self.input_length:  # cut, but ended, as in training
        ids = [*ids[: self.input_length - 1], 1]
      batch[row, : len(ids)] = ids
    tokens, scores = map(np.asarray, self._call(self._params, batch))
    outputs = []
    for row in tokens.tolist():
      ends = [i for i, token in enumerate(row) if token in (0, 1)]
      outputs.append(row[: ends[0]] if ends else row)
    return outputs, scores


def main():
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
  student = Student()
  outputs, _ = student([tokenizer(text).input_ids for text in sys.argv[1:]])
  for ids in outputs:
    print(tokenizer.decode(ids))


if __name__ == "__main__":
  main()
