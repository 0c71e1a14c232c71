"""The Hugging Face format, which `AutoModelForSeq2SeqLM.from_pretrained` reads.

Weights are written into safetensors files with NumPy alone; transformers and
torch are needed only to check the result.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dss_jax.base.errors import StorageError, UserError, one_line
from dss_jax.models import partitioning
from dss_jax.models.config import (
  MAX_RELPOS_DISTANCE,
  NUM_RELPOS_BUCKETS,
  T5Config,
)
from dss_jax.pretrained import huggingface_weights
from dss_jax.students.export import (
  answer_checks,
  formats,
  model_card,
  tokenizer_files,
)
from dss_jax.students.student import Student

PACKAGES = ("safetensors",)
CHECK_PACKAGES = ("torch", "transformers")
HAS_TOKENIZER = True
OWN_DTYPE = False

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9  # as transformers splits

# Our activation -> Hugging Face's. T5's gelu is the tanh approximation, which
# Hugging Face calls "gelu_new"; its "gelu" is exact, except in "gated-gelu",
# where it means "gelu_new".
_ACTIVATIONS = {"gelu": "gelu_new", "swish": "silu"}


def feed_forward(config: T5Config) -> str:
  """Hugging Face's `feed_forward_proj`.

  Raises:
    UserError: for a feed-forward layer that transformers' T5 does not have.
  """
  activations = config.mlp_activations
  if len(activations) == 1:
    return _ACTIVATIONS.get(activations[0], activations[0])
  if len(activations) == 2 and activations[1] == "linear":
    if activations[0] == "gelu":
      return "gated-gelu"
    return f"gated-{_ACTIVATIONS.get(activations[0], activations[0])}"
  raise UserError(
    f"mlp_activations is {activations!r}; transformers' T5 has one activation,"
    " or one and 'linear': export to t5x or stablehlo",
    fields=("T5Config.mlp_activations", "format"),
  )


def needs_cache_off(config: T5Config) -> bool:
  """Whether `generate` must not use its cache.

  transformers sizes the cache by the encoder's layers, and overruns it if the
  decoder has more.
  """
  return config.num_decoder_layers > config.num_encoder_layers


def model_config(student: Student) -> dict[str, Any]:
  """`config.json`, for transformers 4 and 5.

  Raises:
    UserError: for a student that transformers' T5 cannot represent.
  """
  config = student.model.config
  tied = config.logits_via_embedding
  kind = "UMT5" if config.relpos_bias_per_layer else "T5"
  return {
    "architectures": [f"{kind}ForConditionalGeneration"],
    "model_type": kind.lower(),
    "vocab_size": config.vocab_size,
    "d_model": config.emb_dim,
    "d_kv": config.head_dim,
    "d_ff": config.mlp_dim,
    "num_layers": config.num_encoder_layers,
    "num_decoder_layers": config.num_decoder_layers,
    "num_heads": config.num_heads,
    "feed_forward_proj": feed_forward(config),
    "relative_attention_num_buckets": NUM_RELPOS_BUCKETS,
    "relative_attention_max_distance": MAX_RELPOS_DISTANCE,
    "dropout_rate": config.dropout_rate,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "use_cache": not needs_cache_off(config),
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    # transformers 4 scales the decoder's outputs if the tables are tied;
    # version 5 reads the second key.
    "tie_word_embeddings": tied,
    "scale_decoder_outputs": tied,
    "dtype": "float32",
    "torch_dtype": "float32",  # the name of transformers before 4.56
    "task_specific_params": {
      name: {"prefix": prefix} for name, prefix in prefixes(student).items()
    },
  }


def generation_config(student: Student) -> dict[str, Any]:
  """`generation_config.json`: greedy, as long as the run's targets."""
  return {
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "max_new_tokens": answer_checks.output_tokens(student),
    "use_cache": not needs_cache_off(student.model.config),
  }


def prefixes(student: Student) -> dict[str, str]:
  """The text before the input, for each sub-task that reads nothing else."""
  found = {}
  for subtask in student.subtasks:
    *before, last = subtask.input_parts(student.options)
    if last == ("input", True) and not any(part.is_field for part in before):
      found[subtask.name] = "".join(part.text for part in before)
  return found


def write(
  student: Student,
  folder: pathlib.Path,
  options: formats.ExportOptions | None = None,
  *,
  max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
  """Writes weights, configurations and tokenizer into `folder`."""
  del options  # there is nothing to choose
  tokenizer_files.write_json(folder / "config.json", model_config(student))
  tokenizer_files.write_json(
    folder / "generation_config.json", generation_config(student)
  )
  tokenizer_files.write(student, folder)
  write_weights(student, folder, max_shard_bytes)


@contextlib.contextmanager
def temporary_folder(
  student: Student, folder: pathlib.Path
) -> Iterator[pathlib.Path]:
  """Yields a folder in `folder` with the student in this format, for a while.

  transformers is silent meanwhile.
  """
  with tempfile.TemporaryDirectory(prefix=".", dir=folder) as source:
    write(student, pathlib.Path(source))
    with tokenizer_files.quiet():
      yield pathlib.Path(source)


def write_weights(
  student: Student, folder: pathlib.Path, max_shard_bytes: int
) -> None:
  """Writes safetensors files; memory holds only one of them at a time."""
  shards = _shards(student.model.config, max_shard_bytes)
  if len(shards) == 1:
    save(dict(_tensors(student, shards[0])), folder / WEIGHTS_FILE)
    return
  places: dict[str, str] = {}
  total = 0
  for number, paths in enumerate(shards, 1):
    file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    tensors = dict(_tensors(student, paths))
    save(tensors, folder / file)
    places.update(dict.fromkeys(tensors, file))
    total += sum(array.nbytes for array in tensors.values())
  tokenizer_files.write_json(
    folder / INDEX_FILE,
    {"metadata": {"total_size": total}, "weight_map": places},
  )


def _shards(
  config: T5Config, max_shard_bytes: int
) -> list[list[huggingface_weights.Path]]:
  """The paths of our parameters, in groups that fit into one float32 file."""
  shapes = huggingface_weights.parameter_shapes(config)
  shards: list[list[huggingface_weights.Path]] = [[]]
  used = 0
  for path in huggingface_weights.parameter_names(config):
    size = 4 * int(np.prod(shapes[path]))
    if shards[-1] and used + size > max_shard_bytes:
      shards.append([])
      used = 0
    shards[-1].append(path)
    used += size
  return shards


def _tensors(
  student: Student, paths: Sequence[huggingface_weights.Path]
) -> Iterator[tuple[str, np.ndarray]]:
  names = huggingface_weights.parameter_names(student.model.config)
  for path in paths:
    name, transposed = names[path]
    array = parameter(student, path)
    yield name, np.ascontiguousarray(array.T if transposed else array)


def parameter(student: Student, path: huggingface_weights.Path) -> np.ndarray:
  """One parameter as a host array, by its path with unstacked layers."""
  node: Any = student.params
  stack, layer, *rest = path
  if student.model.config.scan_layers and layer.startswith("layers_"):
    for key in (stack, stack, *rest):
      node = node[key]
    node = node[:, int(layer.removeprefix("layers_"))]
  else:
    for key in path:
      node = node[key]
  return np.asarray(partitioning.to_host(node), np.float32)


def save(tensors: dict[str, np.ndarray], path: pathlib.Path) -> None:
  """Writes one safetensors file."""
  import safetensors
  import safetensors.numpy

  try:
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes files that others cannot read
  except safetensors.SafetensorError as error:  # such as a full disk
    raise StorageError(
      f"cannot write {path} ({one_line(error)}): make room or mend the disk, and"
      " start again"
    ) from error


def answers(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> answer_checks.Answer:
  """Returns a function that answers with transformers, greedily."""
  del student, options
  import torch
  import transformers

  with tokenizer_files.quiet():
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
      folder, dtype=torch.float32
    )
  return answers_of(model)


def answers_of(model: Any, **settings: Any) -> answer_checks.Answer:
  """Returns a function that answers with a model of torch, greedily.

  Args:
    model: transformers', or PEFT's of one.
    **settings: further arguments of `generate`.
  """
  import torch

  model.eval()

  def decode(
    tokens: np.ndarray, mask: np.ndarray, longest: int
  ) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
      found = model.generate(
        input_ids=torch.from_numpy(tokens),
        attention_mask=torch.from_numpy(mask),
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
      )
      log_probs = model.compute_transition_scores(
        found.sequences, found.scores, normalize_logits=True
      ).numpy()
    written = found.sequences[:, 1:].numpy()
    # Tokens after the first end id do not count.
    ended = np.cumsum(np.isin(written, (0, 1)), axis=1)
    counts = (ended == 0) | ((ended == 1) & np.isin(written, (0, 1)))
    return written, np.where(counts, log_probs, 0).sum(axis=1)

  return answer_checks.answer_in_batches(decode)


def usage(student: Student, options: formats.ExportOptions) -> str:
  """How to load the folder with transformers."""
  del options
  versions = "4.57 and 5"
  if student.model.config.relpos_bias_per_layer:
    versions = "4.57 and 5.24; those between scale the logits of every UMT5"
  # transformers 5 takes the tables of every T5 for tied until it sees them, and
  # then warns. Nothing in the folder can say so: with `tie_word_embeddings` off
  # it would draw the encoder's and the decoder's tables at random.
  quietly = ""
  if not student.model.config.logits_via_embedding:
    quietly = (
      "\ntransformers.logging.set_verbosity_error()  # untied is meant\n"
    )
  text = f"""\
With transformers ({versions}):

```python
import transformers
{quietly}
tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")
model = transformers.AutoModelForSeq2SeqLM.from_pretrained("FOLDER")
batch = {model_card.tokenizing(student, 'return_tensors="pt"')}
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```"""
  if needs_cache_off(student.model.config):
    text += """

The decoder has more layers than the encoder, and `generate` then fails with its
cache on; the configuration turns it off (`use_cache`)."""
  return text
