"""How the students of a distillation are configured."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

from dss_jax import vocabularies
from dss_jax.experiments.distill.project import Project

RECORDS_PER_BATCH = 16


def of_project(project: Project) -> tuple[str, list[str], dict[str, Any]]:
  """The student's gin file, those of the run, and what all runs bind."""
  options = project.options
  bindings: dict[str, Any] = {
    "MIXTURE_OR_TASK_MODULE": project.module,
    "DATASET": project.dataset,
    "TASK_FEATURE_LENGTHS": {"inputs": 1024, "targets": 256},
    "RECORDS_PER_BATCH": RECORDS_PER_BATCH,
  }
  if not project.is_from_scratch:
    bindings["INITIAL_CHECKPOINT_PATH"] = options.student
    if options.vocabulary is not None:
      bindings["VOCABULARY"] = options.vocabulary
    return "from_checkpoint", ["runs/finetune.gin"], bindings
  bindings |= {
    "VOCABULARY": options.vocabulary or str(project.vocabulary_file.resolve()),
    "OPTIMIZER": "@optimizers.ParameterScaledAdam()",
    "Z_LOSS": 0.0,
  }
  if options.student != "small":
    return options.student, ["runs/train.gin"], bindings
  size = vocabularies.from_name(bindings["VOCABULARY"]).vocab_size
  bindings["network.T5Config.vocab_size"] = 128 * math.ceil(size / 128)
  return "small_cpu", ["runs/train.gin"], bindings


def train_flags(
  project: Project, method: str, folder: pathlib.Path, steps: int
) -> list[str]:
  """The command that trains a student by a method."""
  student, files, bindings = of_project(project)
  model = student if student.endswith(".gin") else f"models/{student}.gin"
  bindings |= {
    "MODEL_DIR": folder,
    "TRAIN_STEPS": steps,
    "CHECKPOINT_PERIOD": steps,
  }
  return [
    "train",
    *(f"--gin_file={f}" for f in (model, *files, f"methods/{method}.gin")),
    *(f"--gin.{name}={_gin_value(v)}" for name, v in bindings.items()),
  ]


def _gin_value(value: Any) -> str:
  """A value as a flag has it: plain texts need no quotation marks."""
  # JSON's double quotation marks are easier on shells.
  return json.dumps(value) if isinstance(value, dict) else str(value)
