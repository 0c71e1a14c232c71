"""How a run starts or resumes: what it reads, trains and is checked against.

Everything that may be refused is looked at here, before the first step: a
configuration that cannot run, or that does not fit the run found in the folder,
is refused before it costs anything or changes a file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from dss_jax.base import plain_files, strict_json
from dss_jax.base.errors import UserError, damaged_file
from dss_jax.data.feeding import batches, training_data
from dss_jax.data.packing import packed_features, packing_plans
from dss_jax.models import abstract_params
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training import (
  initialization,
  lora_runs,
  train_config,
  train_state,
  train_step,
)
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import LoopState
from dss_jax.training.validation_loss import ValidationLoss

PyTree = Any

# What the run's seed is folded with, for each use of randomness.
PARAMS_KEY, DROPOUT_KEY = 1, 2


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a start of a run works with, its state aside.

  Attributes:
    data: what is trained on.
    evaluators: of the selecting split, and of the test split if there is one.
    validation_loss: of the selecting split; None where it is not measured.
    base: the frozen base that adapters are trained on; None where all
      parameters are trained.
    tx: the optimizer.
    make_step: makes the step, not yet compiled, for an optimizer.
    earlier: `run.json` of the run that is continued; empty where there is none.
  """

  data: training_data.TrainingData
  evaluators: Sequence[evaluation_lib.Evaluator]
  validation_loss: ValidationLoss | None
  base: lora_runs.Base | None
  tx: optax.GradientTransformation
  make_step: Callable[[optax.GradientTransformation], train_step.JittedStep]
  earlier: Mapping[str, Any]

  def student_params(self, params: PyTree) -> PyTree:
    """The whole student's parameters, from those that are trained."""
    return self.base.merge(params) if self.base else params


def start_or_resume(
  config: TrainConfig,
  checkpoints: checkpoints_lib.Checkpoints,
) -> tuple[Setup, train_state.TrainState, LoopState]:
  """Reads and checks all that a run needs, the cheapest first.

  Args:
    config: the run; its folder is locked.
    checkpoints: those in the folder.

  Returns:
    What the run works with, the state to continue from, which steps will take
    over, and what the loop remembered.

  Raises:
    UserError: for a configuration that cannot run, or that does not fit the
      run found in the folder.
  """
  partitioner = config.partitioner
  train_config.check_vocabulary(config.vocabulary, config.model)
  latest = checkpoints.latest_step()
  start = _open_initial(config, latest)
  earlier = _earlier_description(config, latest)
  data = training_data.load(
    config.train_dataset_cfg,
    config.vocabulary,
    seed=config.random_seed,
    steps=range(latest or 0, config.total_steps),
    rows_multiple_of=partitioner.batch_shards * config.num_microbatches,
    rows_of_process=partitioner.process_rows,
    earlier_shape=earlier.get("batch_shape"),
  )
  _check_same_data(config, data, earlier)
  check_pairs(config, data)
  _check_attention(config, data.shape)
  evaluators = _evaluators(config)
  base = lora_runs.open_base(config, checkpoints, latest)
  model = base.adapters if base else config.model
  loop = LoopState()
  if latest is not None:
    with damaged_file(checkpoints.folder / str(latest), "delete that folder"):
      loop = LoopState(**checkpoints.loop_state(latest))
  tx = config.optimizer.transform(
    config.learning_rate_fn,
    abstract_params.param_shapes(model),
    model.param_axes(),
  )
  state, shardings = _restore_or_init(
    config, checkpoints, model, tx, base, start
  )
  validation_loss = None
  if config.evaluation_cfg.loss_batches != 0:
    student_shardings = shardings.params
    if base:
      student_shardings = jax.tree.map(lambda x: x.sharding, base.params)
    validation_loss = ValidationLoss(config, data.shape, student_shardings)
  make_step = functools.partial(
    jit_step,
    config,
    data.subtask_names,
    shardings=shardings,
    adapted=(base.adapters.on, base.params) if base else None,
  )
  setup = Setup(
    data=data,
    evaluators=evaluators,
    validation_loss=validation_loss,
    base=base,
    tx=tx,
    make_step=make_step,
    earlier=earlier,
  )
  return setup, state, loop


def _evaluators(config: TrainConfig) -> list[evaluation_lib.Evaluator]:
  """Made before training, so that a missing split is refused at once."""
  evaluation = config.evaluation_cfg
  selecting = train_config.make_evaluator(config, evaluation.split)
  evaluation_lib.check_metric(selecting.tasks, evaluation.metric)
  if evaluation.test_split is None:
    return [selecting]
  try:
    test = train_config.make_evaluator(
      config, evaluation.test_split, generator=selecting.generator
    )
  except UserError as error:
    raise UserError(
      f"{error}; to train without a test, set test_split to None",
      fields=(*error.fields, "EvaluationConfig.test_split"),
    ) from error
  return [selecting, test]


def _open_initial(
  config: TrainConfig, latest: int | None
) -> initialization.Initial | None:
  """What a new run starts from, compared with the student before all else."""
  path = config.initial_checkpoint_path
  if path is None or latest is not None:
    return None
  return initialization.open_initial(
    path,
    config.model,
    config.vocabulary,
    optimizer_state=config.restore_optimizer,
  )


def _earlier_description(
  config: TrainConfig, latest: int | None
) -> dict[str, Any]:
  """`run.json` of the run that is continued; empty where there is none."""
  path = config.folder / "run.json"
  if latest is None or not path.exists():
    return {}
  remedy = "restore it, or choose another model_dir"
  with damaged_file(path, remedy):
    earlier = strict_json.loads(plain_files.read_text(path))
    shape = earlier.get("batch_shape")
    if shape is not None:
      packing_plans.BatchShape(**shape)
    return earlier


def _check_same_data(
  config: TrainConfig,
  data: training_data.TrainingData,
  earlier: Mapping[str, Any],
) -> None:
  """A run continues only with the data, and the order, that it began with."""
  now = {"data_fingerprint": data.fingerprint, "seed": config.random_seed}
  for name, value in now.items():
    if earlier.get(name, value) != value:
      raise UserError(
        f"model_dir {config.model_dir!r} holds a run whose {name} is"
        f" {earlier[name]!r}, and now it is {value!r}: choose another model_dir,"
        " or the data, task and random_seed that the run began with",
        fields=("TrainConfig.model_dir", "TrainConfig.random_seed"),
      )


def check_pairs(config: TrainConfig, data: training_data.TrainingData) -> None:
  """Refuses data in which a loss of pairs would miss some.

  Raises:
    UserError: where the examples of a record do not all lie in one row.
  """
  if config.objective.aux_loss is None:
    return
  found, shape = data.batches, data.shape
  if (
    not isinstance(found, batches.PackedBatches)
    or not found.example_set.paired
    or not shape.pack
  ):
    raise UserError(
      f"aux_loss compares the examples of a record, which {data.task_name} does"
      " not keep together as it is read: choose a paired method, such as"
      " dss_paired, with pack, without streaming and batch_files",
      fields=("Objective.aux_loss", "task_name.method"),
    )
  inputs, targets = packing_plans.longest_record(found.example_set)
  if inputs > shape.encoder_length or targets > shape.decoder_length:
    raise UserError(
      "aux_loss compares the examples of a record, which must fit one row: the"
      f" longest need {inputs} input and {targets} target tokens, and rows have"
      f" {shape.encoder_length} and {shape.decoder_length}; set encoder_length"
      " and decoder_length to as many, or shorten task_feature_lengths",
      fields=("DatasetConfig.encoder_length", "DatasetConfig.decoder_length"),
    )


def _check_attention(
  config: TrainConfig, shape: packing_plans.BatchShape
) -> None:
  """Refuses an attention kernel that cannot take these rows on these devices."""
  if config.model.config.attention_implementation in ("auto", "xla"):
    return
  batch = {
    name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
    for name, spec in packed_features.feature_specs(
      shape.rows, shape.encoder_length, shape.decoder_length
    ).items()
  }
  jax.eval_shape(
    config.model.hidden_states,
    abstract_params.param_shapes(config.model),
    batch,
    dropout_key=jax.eval_shape(lambda: jax.random.key(0)),
  )


def _restore_or_init(
  config: TrainConfig,
  checkpoints: checkpoints_lib.Checkpoints,
  model: Any,
  tx: optax.GradientTransformation,
  base: lora_runs.Base | None,
  start: initialization.Initial | None,
) -> tuple[train_state.TrainState, train_state.TrainState]:
  """The state to continue from, and its shardings."""
  step = checkpoints.latest_step()
  if step is not None:
    shapes, shardings = train_state.abstract_state(
      model, tx, config.partitioner
    )
    return checkpoints.restore(step, shapes), shardings
  key = jax.random.fold_in(jax.random.key(config.random_seed), PARAMS_KEY)
  if base:
    params = base.adapters.init(key, base.params)
    return train_state.state_from_params(
      params, tx, config.partitioner, model.param_axes()
    )
  if start is not None:
    return initialization.initial_state(
      start,
      model,
      tx,
      config.partitioner,
      optimizer_state=config.restore_optimizer,
    )
  return train_state.init_state(model, tx, config.partitioner, key)


def jit_step(
  config: TrainConfig,
  subtask_names: Sequence[str],
  tx: optax.GradientTransformation,
  shardings: train_state.TrainState,
  adapted: tuple[Any, PyTree] | None = None,
) -> train_step.JittedStep:
  """The step of a run, not yet compiled.

  Args:
    config: the run.
    subtask_names: in the order of their ids.
    tx: the optimizer.
    shardings: where the state's arrays live.
    adapted: see `train_step.jit_train_step`.
  """
  objective = config.objective
  return train_step.jit_train_step(
    model=config.model,
    adapted=adapted,
    tx=tx,
    options=train_step.StepOptions(
      objective.weighting(subtask_names),
      num_microbatches=config.num_microbatches,
      z_loss=objective.z_loss,
      label_smoothing=objective.label_smoothing,
      logits_at_once=config.logits_at_once(),
      learning_rate_fn=config.learning_rate_fn,
      aux_loss=objective.aux_loss and objective.aux_loss.between(subtask_names),
    ),
    partitioner=config.partitioner,
    state_shardings=shardings,
    base_key=jax.random.fold_in(
      jax.random.key(config.random_seed), DROPOUT_KEY
    ),
  )
