"""The library's configurables in gin, under T5X's names."""

from __future__ import annotations

# gin-config 0.5.0 uses importlib.util without importing it.
import importlib.util  # noqa: F401
import pathlib
from typing import Any

import gin
import gin.config

PACKAGED_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "gin"

MACRO = "gin.macro"
CONSTANT = "gin.constant"  # gin.REQUIRED is the only one in use

# Name in gin -> what it configures, filled by `register`.
configurables: dict[str, Any] = {}


def register() -> None:
  """Registers the library's configurables, once, under T5X's names."""
  if configurables:
    return

  # Imported here: `dss-jax --help` must not pay for JAX.
  from dss_jax import datasets
  from dss_jax.data import pipeline
  from dss_jax.data.pairs import several_teachers, subtasks
  from dss_jax.experiments.sweeps import declaration
  from dss_jax.models import config, encoder_decoder, lora, partitioning
  from dss_jax.models.decoding import decode_options
  from dss_jax.training import (
    checkpoints,
    evaluation,
    losses,
    optimizers,
    pair_losses,
    trackers,
    train_config,
  )
  from dss_jax.training.optimizers import schedules

  targets = {
    "network.T5Config": config.T5Config,
    "models.EncoderDecoderModel": encoder_decoder.EncoderDecoderModel,
    "adafactor.Adafactor": optimizers.Adafactor,
    "optimizers.AdamW": optimizers.AdamW,
    "optimizers.ParameterScaledAdam": optimizers.ParameterScaledAdam,
    "utils.create_learning_rate_scheduler": (
      schedules.create_learning_rate_scheduler
    ),
    "losses.Objective": losses.Objective,
    "losses.MutualInformation": pair_losses.MutualInformation,
    "lora.LoraOptions": lora.LoraOptions,
    "partitioning.PjitPartitioner": partitioning.Partitioner,
    "partitioning.standard_logical_axis_rules": (
      partitioning.standard_logical_axis_rules
    ),
    "data.DataOptions": datasets.DataOptions,
    "data.MethodOptions": subtasks.MethodOptions,
    "utils.DatasetConfig": pipeline.DatasetConfig,
    "data.task_name": pipeline.task_name,
    "data.several_teachers": several_teachers.several_teachers,
    "decoding.DecodeOptions": decode_options.DecodeOptions,
    "evaluation.EvaluationConfig": evaluation.EvaluationConfig,
    "utils.SaveCheckpointConfig": checkpoints.SaveOptions,
    "trackers.Wandb": trackers.Wandb,
    "trackers.Mlflow": trackers.Mlflow,
    "trackers.Trackio": trackers.Trackio,
    "train.train": train_config.TrainConfig,
    "sweep.Sweep": declaration.Sweep,
  }
  for name, target in targets.items():
    module, _, short = name.rpartition(".")
    gin.external_configurable(target, name=short, module=module)
    configurables[name] = target


def is_reference(value: Any) -> bool:
  """Whether a bound value stands for another: a macro or a configurable."""
  return isinstance(value, gin.config.ConfigurableReference)


def is_reference_to(value: Any, selector: str) -> bool:
  return is_reference(value) and value.selector == selector


def binding_of(owner: str, parameter: str) -> str | None:
  """What to bind in gin to change a parameter: a macro, if one is its value.

  Args:
    owner: the name of the class or function that takes it.
    parameter: its name.

  Returns:
    `EVAL_STEPS` or `evaluation.EvaluationConfig.batch_size`; None where the
    configuration does not make `owner`.
  """
  for name, target in configurables.items():
    if target.__name__ == owner:
      for (_, selector), bound in gin.config._CONFIG.items():
        value = bound.get(parameter)
        if selector.endswith(name) and is_reference_to(value, MACRO):
          return value.scoped_selector.removesuffix(f"/{MACRO}")
      return f"{name}.{parameter}"
  return None
