"""The StableHLO format: encoding and decoding as one serialised program.

`jax.export` keeps the whole search (the loop over tokens included) as
StableHLO for CPUs, CUDA GPUs and TPUs. The parameters are a file of their own
and arguments of the program: other checkpoints of the same student fit it too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from dss_jax.base.errors import UserError
from dss_jax.models import encoder_decoder, partitioning
from dss_jax.students.export import (
  answer_checks,
  formats,
  huggingface,
  model_card,
  tokenizer_files,
)
from dss_jax.students.student import Student

PACKAGES = ("flatbuffers", "safetensors")  # the first for jax.export
CHECK_PACKAGES = ()
HAS_TOKENIZER = True
OWN_DTYPE = True

PROGRAM_FILE = "program.jax_export"
PARAMS_FILE = "params.safetensors"
RUNNER_FILE = "run.py"
PLATFORMS = ("cpu", "cuda", "tpu")
# Tokens that inputs are padded to, if their length is not known.
DEFAULT_INPUT_TOKENS = 512


def input_tokens(student: Student) -> int:
  """The length that inputs are padded to."""
  return student.feature_lengths.get("inputs") or DEFAULT_INPUT_TOKENS


def write(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> None:
  """Writes the program, its parameters, the tokenizer and a script."""
  params = named_params(student.params)
  exported = program(student, params, options)
  (folder / PROGRAM_FILE).write_bytes(exported.serialize())
  huggingface.save(params, folder / PARAMS_FILE)
  tokenizer_files.write(student, folder)
  runner = pathlib.Path(__file__).with_name("stablehlo_runner.py")
  (folder / RUNNER_FILE).write_bytes(runner.read_bytes())


def named_params(params: Any) -> dict[str, np.ndarray]:
  """Host arrays by their paths, such as `encoder/layers_0/...`."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {
    "/".join(str(key.key) for key in path): np.ascontiguousarray(
      partitioning.to_host(leaf)
    )
    for path, leaf in leaves
  }


def program(
  student: Student,
  params: dict[str, np.ndarray],
  options: formats.ExportOptions,
) -> jax_export.Exported:
  """The function from (params, inputs [batch, length] int32) to outputs.

  The batch has any size. Outputs are tokens, [batch, output tokens] int32,
  padded with 0 after the end id, and scores, [batch] float32.
  """
  decode = answer_checks.decode_options(options.num_beams)
  structure = jax.tree.structure(student.params)
  longest = answer_checks.output_tokens(student)
  # Kernels run on one kind of device and do not take every length.
  config = dataclasses.replace(
    student.model.config, attention_implementation="xla"
  )
  model = encoder_decoder.EncoderDecoderModel(config)

  def answer(named: dict[str, jax.Array], inputs: jax.Array):
    tree = jax.tree.unflatten(structure, [named[name] for name in params])
    encoded = model.encode(tree, inputs)
    cache = model.init_cache(tree, encoded, inputs, longest)
    step = functools.partial(model.decode_step, tree)
    tokens, scores = decode.decode(
      step, cache, jax.random.key(0), max_decode_length=longest
    )
    return tokens[:, 0], scores[:, 0]

  (batch,) = jax_export.symbolic_shape("batch")
  shapes = {
    name: jax.ShapeDtypeStruct(array.shape, array.dtype)
    for name, array in params.items()
  }
  inputs = jax.ShapeDtypeStruct((batch, input_tokens(student)), jnp.int32)
  with _nameless_sources():
    export = jax_export.export(jax.jit(answer), platforms=PLATFORMS)
    return export(shapes, inputs)


@contextlib.contextmanager
def _nameless_sources() -> Iterator[None]:
  """Keeps the names of source files on this machine out of the program."""
  name = "jax_hlo_source_file_canonicalization_regex"
  before = getattr(jax.config, name)
  jax.config.update(name, ".*")
  try:
    yield
  finally:
    jax.config.update(name, before)


def answers(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> answer_checks.Answer:
  """Returns a function that answers with the program, read back from disk."""
  del options
  import safetensors.numpy

  exported = jax_export.deserialize(
    bytearray((folder / PROGRAM_FILE).read_bytes())
  )
  params = safetensors.numpy.load_file(folder / PARAMS_FILE)
  call = jax.jit(exported.call)
  length = input_tokens(student)

  def decode(
    tokens: np.ndarray, mask: np.ndarray, longest: int
  ) -> tuple[np.ndarray, np.ndarray]:
    del mask
    if longest != answer_checks.output_tokens(student):
      raise UserError(f"the program cannot write outputs of length {longest}")
    # There is one shape, so that it is compiled once.
    padded = np.zeros((answer_checks.BATCH_SIZE, length), np.int32)
    padded[: len(tokens), : tokens.shape[1]] = tokens
    found, scores = call(params, padded)
    return np.asarray(found), np.asarray(scores)

  return answer_checks.answer_in_batches(decode)


def usage(student: Student, options: formats.ExportOptions) -> str:
  """How to run the program."""
  search = "greedy search"
  if options.num_beams > 1:
    search = f"beam search, {options.num_beams} wide"
  return f"""\
`{PROGRAM_FILE}` is a `jax.export` artefact ({search}, for \
{", ".join(PLATFORMS)}) of a function

    (params, inputs [batch, {input_tokens(student)}] int32) ->
        (tokens [batch, {answer_checks.output_tokens(student)}] int32, scores [batch] float32)

Inputs end with id 1 and are filled up with 0; the batch has any size, and each
size is compiled once. `params` is the dictionary of arrays in `{PARAMS_FILE}`.
`{RUNNER_FILE}` is an example that needs jax, flatbuffers, safetensors and
transformers, not dss_jax:

    python {RUNNER_FILE} {model_card.prompt(student)}

JAX promises to read such a file for six months after the version that wrote it
({jax.__version__})."""
