"""Adapters (LoRA) for PEFT: `PeftModel.from_pretrained` puts them on their base.

Only what the run trained is written. A base in Hugging Face's layout is named,
not copied; any other is written in that layout next to the adapters, in `base`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.models import layer_parts, layer_stacking, lora
from dss_jax.models.config import T5Config
from dss_jax.pretrained import (
  huggingface_folder,
  huggingface_weights,
  locations,
)
from dss_jax.students.export import (
  answer_checks,
  formats,
  huggingface,
  model_card,
  tokenizer_files,
)
from dss_jax.students.student import Student
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import initialization

PACKAGES = ("safetensors",)
CHECK_PACKAGES = ("peft", "torch", "transformers")
HAS_TOKENIZER = True
OWN_DTYPE = False

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
BASE_FOLDER = "base"
# PEFT's name of the model that it wraps.
_PREFIX = "base_model.model."


def write(
  student: Student,
  folder: pathlib.Path,
  options: formats.ExportOptions | None = None,
) -> None:
  """Writes the adapters, their configuration and the tokenizer.

  Raises:
    UserError: for a student that is no run's with adapters, or whose adapters
      PEFT cannot have.
  """
  del options  # there is nothing to choose
  note, trained = _adapters(student)
  config = student.model.config
  tensors, adapted, whole = to_peft(trained, config)
  base = _base_name(note["path"])
  tokenizer_files.write_json(
    folder / CONFIG_FILE,
    {
      "peft_type": "LORA",
      "task_type": "SEQ_2_SEQ_LM",
      "base_model_name_or_path": base,
      "inference_mode": True,
      "r": note["rank"],
      "lora_alpha": note["alpha"],
      "use_rslora": False,  # the factor is alpha / r, not alpha / sqrt(r)
      "lora_dropout": 0.0,
      "bias": "none",
      "fan_in_fan_out": False,
      "target_modules": adapted,
      "modules_to_save": whole or None,
    },
  )
  huggingface.save(tensors, folder / WEIGHTS_FILE)
  tokenizer_files.write(student, folder)
  if base is None:
    (folder / BASE_FOLDER).mkdir()
    params = initialization.load_params(note["path"], student.model)
    huggingface.write(
      dataclasses.replace(student, params=params), folder / BASE_FOLDER
    )


def _adapters(student: Student) -> tuple[Mapping[str, Any], dict[str, Any]]:
  """What a run says of its adapters, and what it trained, by our paths."""
  source, step = (student.description.get(key) for key in ("source", "step"))
  if (
    source
    and step is not None
    and (pathlib.Path(source) / checkpoints_lib.FOLDER).is_dir()
  ):
    with checkpoints_lib.Checkpoints(source, read_only=True) as saved:
      note = saved.base(step)
      if note is not None:
        trained = saved.restore_numpy(step)["params"]
        return note, lora.by_path(trained)
  raise UserError(
    f"{str(source)!r} is no run that trained adapters (lora.gin), which the"
    " format peft is for: export to huggingface",
    fields="format",
  )


def _base_name(path: str) -> str | None:
  """What transformers knows the base by; None where it cannot read it."""
  folder = locations.to_folder(path)
  return path if huggingface_folder.is_folder(folder) else None


def to_peft(
  trained: Mapping[str, np.ndarray], config: T5Config
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
  """What a run trained, under PEFT's names and in its layouts.

  Args:
    trained: by our paths: `lora_a` [in, (layers,) rank] and `lora_b`
      [rank, (layers,) out] of adapted kernels, and whole parameters.
    config: the student's.

  Returns:
    The arrays, and the names of transformers' modules: those with adapters, and
    those trained whole.

  Raises:
    UserError: for tables trained whole, which transformers ties, or an adapter
      of the projection, whose scale depends on how the base is stored.
  """
  apart = dict(
    pair
    for path, array in trained.items()
    for pair in layer_stacking.one_by_one(path, array)
  )
  tensors: dict[str, np.ndarray] = {}
  adapted: list[str] = []
  whole: list[str] = []
  for path, (name, transposed) in huggingface_weights.parameter_names(
    config
  ).items():
    module = name.removesuffix(".weight")
    stem = "/".join(path[:-1])
    a, b = (apart.pop(f"{stem}/{each}", None) for each in layer_parts.LOW_RANK)
    value = apart.pop("/".join(path), None)
    is_trained = a is not None or value is not None
    if is_trained and module in ("shared", "lm_head"):
      raise UserError(
        f"the run trained {'/'.join(path)}, which transformers may tie and scale"
        " with another table, so that PEFT cannot hold it apart: export to"
        " huggingface",
        fields=("LoraOptions.also_train", "LoraOptions.targets", "format"),
      )
    if value is not None:
      whole.append(module)
      value = value.T if transposed else value
      tensors[f"{_PREFIX}{name}"] = _float32(value)
    elif a is not None and b is not None:
      adapted.append(module)
      tensors[f"{_PREFIX}{module}.lora_A.weight"] = _float32(a.T)
      tensors[f"{_PREFIX}{module}.lora_B.weight"] = _float32(b.T)
  assert not apart, sorted(apart)
  return tensors, adapted, whole


def _float32(array: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(array, np.float32)


def answers(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> answer_checks.Answer:
  """Returns a function that answers with PEFT on transformers, greedily."""
  del options
  import torch
  import transformers

  base = folder / BASE_FOLDER
  if not base.is_dir():
    note, _ = _adapters(student)
    base = locations.to_folder(note["path"])
  with tokenizer_files.quiet():
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
      base, dtype=torch.float32
    )
  library: Any = importlib.import_module("peft")
  model = library.PeftModel.from_pretrained(model, str(folder))
  return huggingface.answers_of(
    model, use_cache=not huggingface.needs_cache_off(student.model.config)
  )


def usage(student: Student, options: formats.ExportOptions) -> str:
  """How to put the adapters on their base."""
  del options
  note, _ = _adapters(student)
  base = _base_name(note["path"])
  where = '"FOLDER/base"'
  if base is not None:
    # A path on the machine of the export means nothing elsewhere.
    where = f'"{base}"' if not pathlib.Path(base).exists() else '"BASE"'
  arguments = [
    "**batch",
    f"max_new_tokens={answer_checks.output_tokens(student)}",
  ]
  if huggingface.needs_cache_off(student.model.config):
    arguments.append("use_cache=False")
  return f"""\
With PEFT and transformers, on the base that the adapters were trained for:

```python
import peft
import transformers

tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")
base = transformers.AutoModelForSeq2SeqLM.from_pretrained({where})
model = peft.PeftModel.from_pretrained(base, "FOLDER")
batch = {model_card.tokenizing(student, 'return_tensors="pt"')}
print(tokenizer.batch_decode(model.generate({", ".join(arguments)}), skip_special_tokens=True))
```"""
