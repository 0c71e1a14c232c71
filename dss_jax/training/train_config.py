"""All that a training run is made of."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence

from dss_jax import vocabularies
from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.data import pipeline
from dss_jax.models import encoder_decoder, partitioning
from dss_jax.models import lora as lora_lib
from dss_jax.models.decoding import generation
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training import losses, optimizers, vocabulary_loss
from dss_jax.training import trackers as trackers_lib
from dss_jax.training.optimizers import schedules

VOCABULARY_LOSSES = ("fused", "plain")
# Fields that are objects, a method that only the object has (and not the class
# or function that makes it), and an example.
_OBJECTS = {
  "model": ("hidden_states", "models.EncoderDecoderModel"),
  "optimizer": ("transform", "optimizers.AdamW"),
  "partitioner": ("put_batch", "partitioning.PjitPartitioner"),
}
# Fields that count something.
_COUNTS = (
  "total_steps",
  "num_microbatches",
  "stats_period",
  "max_nonfinite_steps",
)
_OPTIONAL_COUNTS = ("eval_period", "early_stopping_patience")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """All that a training run is made of; the arguments of T5X's `train.train`.

  Attributes:
    model: the student.
    model_dir: folder of the run; a run found there is continued.
    vocabulary: turns text into tokens, for inputs and targets; its name, as
      `vocabularies.from_name` takes it, does too.
    optimizer: one of `dss_jax.training.optimizers`.
    learning_rate_fn: step -> learning rate.
    train_dataset_cfg: what to train on.
    total_steps: updates in all.
    evaluation_cfg: what to decode and score while training.
    partitioner: the mesh.
    objective: weights and normalisation of the sub-tasks' losses.
    save_cfg: when checkpoints are made and kept.
    initial_checkpoint_path: parameters to start from (the folder of a run, a
      Hugging Face folder or a T5X checkpoint); None starts from random ones.
    restore_optimizer: continue with the Adafactor state of that checkpoint
      too, which T5X wrote.
    lora: train adapters for those parameters; None trains all parameters.
    num_microbatches: parts a batch is cut into to save memory.
    random_seed: of initial parameters, dropout and data order.
    eval_period: steps between evaluations; None evaluates at the end only.
    stats_period: steps between looks at the metrics; all steps are written.
    early_stopping_patience: evaluations without a better one before the run
      ends; None trains all steps.
    early_stopping_min_improvement: what an evaluation must be better by than
      the last one that counted, and more, to count for that patience.
    max_nonfinite_steps: updates in a row that may be skipped for a loss or
      gradient that is not finite before the run is stopped.
    vocabulary_loss: how the losses of the vocabulary projection are computed:
      "fused", or "plain" from all logits at once, the slow reference.
    trackers: where else the curves go, besides the run's folder: objects of
      `trackers`.
    profile_steps: `A:B` records the steps A to B - 1 with JAX's profiler;
      None records none.
    debug_nans: end the run at the first step that is not finite, and say which
      operation made it so; costs speed. Otherwise such steps are skipped, see
      `max_nonfinite_steps`.
    config_text_fn: returns the configuration as text, for `config.gin`.
  """

  model: encoder_decoder.EncoderDecoderModel
  model_dir: str
  vocabulary: vocabularies.Vocabulary
  optimizer: optimizers.Optimizer
  learning_rate_fn: schedules.LearningRateFn
  train_dataset_cfg: pipeline.DatasetConfig
  total_steps: int
  evaluation_cfg: evaluation_lib.EvaluationConfig = dataclasses.field(
    default_factory=evaluation_lib.EvaluationConfig
  )
  partitioner: partitioning.Partitioner = dataclasses.field(
    default_factory=partitioning.Partitioner
  )
  objective: losses.Objective = dataclasses.field(
    default_factory=losses.Objective
  )
  save_cfg: checkpoints_lib.SaveOptions = dataclasses.field(
    default_factory=checkpoints_lib.SaveOptions
  )
  initial_checkpoint_path: str | None = None
  restore_optimizer: bool = False
  lora: lora_lib.LoraOptions | None = None
  num_microbatches: int = 1
  random_seed: int = 0
  eval_period: int | None = None
  stats_period: int = 10
  early_stopping_patience: int | None = None
  early_stopping_min_improvement: float = 0.0
  max_nonfinite_steps: int = 10
  vocabulary_loss: str = "fused"
  trackers: Sequence[trackers_lib.Tracker] = ()
  profile_steps: str | None = None
  debug_nans: bool = False
  config_text_fn: Callable[[], str] | None = None

  @property
  def folder(self) -> pathlib.Path:
    """The run's folder, `model_dir`."""
    return pathlib.Path(self.model_dir)

  def logits_at_once(self, platform: str | None = None) -> int | None:
    """Positions of a device whose logits exist at once; None for all.

    Args:
      platform: JAX's name for the kind of device; None takes the mesh's.
    """
    if self.vocabulary_loss == "plain":
      return None
    return vocabulary_loss.positions_at_once(
      self.model.config.vocab_size,
      platform or self.partitioner.mesh.devices.flat[0].platform,
    )

  def steps_to_profile(self) -> range | None:
    """The steps that JAX's profiler records, numbered from 1.

    Raises:
      UserError: where `profile_steps` is not `A:B`, or after the last step.
    """
    if self.profile_steps is None:
      return None
    text, fields = str(self.profile_steps), "TrainConfig.profile_steps"
    match = re.fullmatch(r"([1-9]\d{0,11}):(\d{1,12})", text)
    steps = range(int(match[1]), int(match[2])) if match else range(0)
    if not steps:
      raise UserError(
        f"profile_steps is {text!r}; it must be A:B with 1 <= A < B, such as"
        " 20:25, and records the steps A to B - 1",
        fields=fields,
      )
    if steps[0] > self.total_steps:
      raise UserError(
        f"profile_steps is {text!r}, but the run ends with step"
        f" {self.total_steps}: choose earlier steps, or raise total_steps",
        fields=(fields, "TrainConfig.total_steps"),
      )
    return steps

  def __post_init__(self):
    where = "TrainConfig"
    checks.one_of(
      f"{where}.vocabulary_loss", self.vocabulary_loss, VOCABULARY_LOSSES
    )
    for name in (*_COUNTS, *_OPTIONAL_COUNTS):
      checks.in_range(
        f"{where}.{name}",
        getattr(self, name),
        1,
        whole=True,
        or_none=name in _OPTIONAL_COUNTS,
      )
    checks.in_range(
      f"{where}.early_stopping_min_improvement",
      self.early_stopping_min_improvement,
      0,
    )
    checks.in_range(
      f"{where}.random_seed", self.random_seed, 0, 2**32 - 1, whole=True
    )
    if not self.model_dir or "\0" in self.model_dir:
      raise UserError(
        f"model_dir is {self.model_dir!r}; it must be the path of a folder",
        fields=f"{where}.model_dir",
      )
    folder = os.path.expanduser(self.model_dir)
    object.__setattr__(self, "model_dir", folder)
    vocabulary = vocabularies.from_name(self.vocabulary)
    object.__setattr__(self, "vocabulary", vocabulary)
    for name, (method, example) in _OBJECTS.items():
      value = getattr(self, name)
      if isinstance(value, type) or not hasattr(value, method):
        raise UserError(
          f"{name} is {value!r}; it must be an object, in gin with parentheses:"
          f" @{example}()",
          fields=f"{where}.{name}",
        )
    if self.lora is not None and self.initial_checkpoint_path is None:
      raise UserError(
        "lora is set, which trains adapters for the parameters of a base, and"
        " there is no base: set initial_checkpoint_path to the folder of a run"
        " or to a pretrained checkpoint",
        fields=f"{where}.initial_checkpoint_path",
      )
    if self.restore_optimizer and (
      self.lora is not None or self.initial_checkpoint_path is None
    ):
      raise UserError(
        "restore_optimizer is True, which continues with the optimizer state of"
        " a T5X checkpoint: set initial_checkpoint_path to one and train without"
        " lora, or set restore_optimizer to False",
        fields=(
          f"{where}.restore_optimizer",
          f"{where}.initial_checkpoint_path",
        ),
      )
    self.steps_to_profile()
    trackers = self.trackers
    if not isinstance(trackers, Sequence) or any(
      isinstance(each, type) or not hasattr(each, "open") for each in trackers
    ):
      raise UserError(
        f"trackers is {trackers!r}; it must be a list of objects, in gin with"
        " brackets and parentheses: [@trackers.Wandb()]",
        fields=f"{where}.trackers",
      )


def check_vocabulary(
  vocabulary: vocabularies.Vocabulary,
  model: encoder_decoder.EncoderDecoderModel,
) -> None:
  """Raises UserError where the student lacks ids of the vocabulary."""
  if vocabulary.vocab_size > model.config.vocab_size:
    raise UserError(
      f"the vocabulary {vocabulary.name} has {vocabulary.vocab_size} ids but"
      f" vocab_size of the student is {model.config.vocab_size}: set it to at"
      " least that (a multiple of 128 is fastest), or take another vocabulary",
      fields=("T5Config.vocab_size", "TrainConfig.vocabulary"),
    )


def make_evaluator(
  config: TrainConfig,
  split: str,
  tasks: Sequence[str] | None = None,
  generator: generation.Generator | None = None,
) -> evaluation_lib.Evaluator:
  """The evaluator of a run's tasks on a split.

  Args:
    config: the run.
    split: `validation` or `test`.
    tasks: names to score instead of those of the run.
    generator: the generator of another evaluator of the run, whose compiled
      programs are used again.
  """
  evaluation = config.evaluation_cfg
  dataset = config.train_dataset_cfg
  names = tasks or evaluation.tasks
  found: list[pipeline.EvaluationTask] = []
  for name in names or [dataset.mixture_or_task_name]:
    found += pipeline.load_evaluations(
      name,
      split,
      config.vocabulary,
      dataset,
      labels_only=not names,
      max_examples=evaluation.max_examples,
    )
  for task in found:
    if not len(task):
      raise UserError(
        f"{task.name} has nothing to score in split {split!r}: there are no"
        " records with a target; choose other tasks, or another split",
        fields=("EvaluationConfig.tasks", "EvaluationConfig.split"),
      )
  generator = generator or generation.Generator(
    config.model,
    config.partitioner,
    evaluation.decode,
    batch_size=evaluation.batch_size,
  )
  return evaluation_lib.Evaluator(generator, config.vocabulary, found)
