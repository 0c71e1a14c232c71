"""What the library brings to gin: its configurables, under T5X's names."""

from __future__ import annotations

# gin-config 0.5.0 uses importlib.util without importing it.
import importlib.util  # noqa: F401
import pathlib
from typing import Any

import gin
import gin.config

PACKAGED_FOLDER = pathlib.Path(__file__).resolve().parent / "gin"

MACRO = "gin.macro"
CONSTANT = "gin.constant"  # of which gin.REQUIRED is the only one in use

# Name in gin -> what it configures, filled by `register`.
configurables: dict[str, Any] = {}


def register() -> None:
  """Registers the library's configurables, once, under T5X's names."""
  if configurables:
    return

  # Imported here: `dss-jax --help` must not pay for JAX.
  from dss_jax import (
    checkpoints,
    datasets,
    evaluation,
    generation,
    lora,
    losses,
    optimizers,
    partitioning,
    schedules,
    train_config,
  )
  from dss_jax.data import pipeline, subtasks
  from dss_jax.models import config, encoder_decoder

  def configurable(target: Any, name: str) -> None:
    module, _, short = name.rpartition(".")
    gin.external_configurable(target, name=short, module=module)
    configurables[name] = target

  configurable(config.T5Config, "network.T5Config")
  configurable(
    encoder_decoder.EncoderDecoderModel, "models.EncoderDecoderModel"
  )
  configurable(optimizers.Adafactor, "adafactor.Adafactor")
  configurable(optimizers.AdamW, "optimizers.AdamW")
  configurable(optimizers.ParameterScaledAdam, "optimizers.ParameterScaledAdam")
  configurable(
    schedules.create_learning_rate_scheduler,
    "utils.create_learning_rate_scheduler",
  )
  configurable(losses.Objective, "losses.Objective")
  configurable(lora.LoraOptions, "lora.LoraOptions")
  configurable(partitioning.Partitioner, "partitioning.PjitPartitioner")
  configurable(
    partitioning.standard_logical_axis_rules,
    "partitioning.standard_logical_axis_rules",
  )
  configurable(datasets.DataOptions, "data.DataOptions")
  configurable(subtasks.MethodOptions, "data.MethodOptions")
  configurable(pipeline.DatasetConfig, "utils.DatasetConfig")
  configurable(pipeline.task_name, "data.task_name")
  configurable(generation.DecodeOptions, "decoding.DecodeOptions")
  configurable(evaluation.EvaluationConfig, "evaluation.EvaluationConfig")
  configurable(checkpoints.SaveOptions, "utils.SaveCheckpointConfig")
  configurable(train_config.TrainConfig, "train.train")


def is_reference(value: Any) -> bool:
  """Whether a bound value stands for another: a macro or a configurable."""
  return isinstance(value, gin.config.ConfigurableReference)


def is_reference_to(value: Any, selector: str) -> bool:
  return is_reference(value) and value.selector == selector
