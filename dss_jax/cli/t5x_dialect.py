"""T5X's gin files and names: what each becomes here.

dss_jax has T5X's macros and most of its configurables, known to gin before a
file is read. T5X's files import and include T5X itself; here is what to write
in place of those lines, and of names that dss_jax does not have.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from dss_jax.base.errors import UserError
from dss_jax.cli import gin_registry, gin_statements
from dss_jax.cli.gin_statements import (
  BINDING,
  BLOCK,
  IMPORT,
  INCLUDE,
  Statement,
)

_DELETE = "delete it"
_STEPS = "TRAIN_STEPS, which counts this run's own updates"
_NO_MODEL = "dss_jax trains dense encoder-decoders only"
_EVALUATION = f"{_DELETE}: EVAL_TASKS, EVAL_STEPS and EVAL_MAX_EXAMPLES say what is evaluated"  # fmt: skip
_LOGGING = f"{_DELETE}: every run writes metrics.jsonl, TensorBoard events and eval/"  # fmt: skip

# T5X's macros that dss_jax has not, and what to write in their place.
MACROS = {
  "ACTIVATION_DTYPE": "network.T5Config.dtype",
  "BEAM_SIZE": "decoding.DecodeOptions.num_beams",
  "CHECKPOINT_PATH": "the flag --model_dir (with --checkpoint)",
  "EVALUATOR_NUM_EXAMPLES": "EVAL_MAX_EXAMPLES",
  "EVALUATOR_USE_MEMORY_CACHE": _DELETE,
  "EVAL_OUTPUT_DIR": "the flag --output_dir of `dss-jax eval`",
  "EXPERT_DROPOUT_RATE": _NO_MODEL,
  "FEATURE_LENGTHS": "TASK_FEATURE_LENGTHS",
  "INFER_OUTPUT_DIR": "the flag --output of `dss-jax infer`",
  "JSON_WRITE_N_RESULTS": f"{_DELETE}: every prediction is written",
  "LEARNING_RATE": "BASE_LEARNING_RATE",
  "MIXTURE_NAME": "MIXTURE_OR_TASK_NAME",
  "MODEL_NAME": _DELETE,
  "MODEL_OUTPUT_DIR": "the flag --output_dir of `dss-jax export`",
  "MODEL_PARALLEL_SUBMESH": (
    "partitioning.PjitPartitioner.model_parallel_submesh"
  ),
  "NUM_EXPERT_PARTITIONS": _NO_MODEL,
  "OUTPUT_FEATURES": _DELETE,
  "SHUFFLE_TRAIN_EXAMPLES": f"{_DELETE}: RANDOM_SEED shuffles",
  "TF_EXAMPLE_FILE_PATHS": "the flag --input of `dss-jax infer`",
  "TF_EXAMPLE_FILE_TYPE": "the flag --input of `dss-jax infer`",
  "TRAIN_EVAL_MIXTURE_OR_TASK_NAME": "EVAL_TASKS",
  "TRAIN_STEPS_RELATIVE": _STEPS,
  "USE_CACHED_TASKS_TRAIN_EVAL": "USE_CACHED_TASKS",
  "USE_HARDWARE_RNG": _DELETE,
  "VOCAB_SIZE": "network.T5Config.vocab_size",
}

# T5X's files, by what follows `t5x/`, and what to do in their place.
_FILES = (
  (r"(?:contrib/moe|examples/decoder_only)/.*", _NO_MODEL),
  (
    r"(?:examples/t5|contrib/gpu/t5)/(t5_1_[01]/(?:tiny|small|base|large|xl|xxl|3B|11B))\.gin",
    r"include 'models/\1.gin'",
  ),
  (
    r"examples/scalable_t5/(t5_1_1/(?:small|base|large|xl|xxl))\.gin",
    r"include 'models/\1.gin', with network.T5Config.scan_layers = True",
  ),
  (r".*configs/runs/pretrain\w*\.gin", "include 'runs/train.gin'"),
  (r".*configs/runs/finetune\w*\.gin", "include 'runs/finetune.gin'"),
  (r".*configs/runs/precompile\.gin", "use `dss-jax train --plan`"),
  (r".*configs/runs/(eval|infer|export)\w*\.gin", r"use `dss-jax \1`"),
  (r".*adamw_opt\.gin", "write OPTIMIZER = @optimizers.AdamW()"),
  (
    r".*(?:mt5|byt5)/.*",
    "include 'models/from_checkpoint.gin', with INITIAL_CHECKPOINT_PATH",
  ),
)  # fmt: skip

# T5X's configurables that dss_jax has not; `*` ends a beginning.
_NAMES = {
  "adafactor.standard_logical_factor_rules": (
    f"{_DELETE}: Adafactor has T5X's rules"
  ),
  "checkpoints.*": _DELETE,
  "decoding.*": "decoding.DecodeOptions",
  "eval_script.*": "use `dss-jax eval`",
  "export_lib.*": "use `dss-jax export`",
  "gin_utils.*": f"{_DELETE}: a run writes its config.gin",
  "infer_script.*": "use `dss-jax infer`",
  "models.DecoderOnlyModel": _NO_MODEL,
  "models.EncoderDecoderModel.predict_*": (
    "decoding.DecodeOptions.strategy = 'beam', and its num_beams"
  ),
  "models.get_*": _DELETE,
  "moe_partitioning.*": _NO_MODEL,
  "moe_trainer.*": _NO_MODEL,
  "network.DecoderWrapper": _NO_MODEL,
  "network.Transformer": f"{_DELETE}: the model takes network.T5Config",
  "network.TransformerConfig": _NO_MODEL,
  "optax.*": "OPTIMIZER = @optimizers.AdamW()",
  "optimizers.MultiOptimizer": "OPTIMIZER = @optimizers.AdamW()",
  "optimizers.adamw": "OPTIMIZER = @optimizers.AdamW()",
  "optimizers.chain": "OPTIMIZER = @optimizers.AdamW()",
  "seqio.ByteVocabulary": "VOCABULARY = 'bytes'",
  "seqio.Evaluator": _LOGGING,
  "seqio.Feature": _DELETE,
  "seqio.JSONLogger": _LOGGING,
  "seqio.PyLoggingLogger": _LOGGING,
  "seqio.SentencePieceVocabulary": (
    "VOCABULARY = 'FILE:100', a SentencePiece model and its extra ids"
  ),
  "seqio.TensorBoardLogger": _LOGGING,
  "train_script.precompile": "use `dss-jax train --plan`",
  "trainer.TerminateOnNanAction": (
    f"{_DELETE}: train.train.max_nonfinite_steps ends such a run"
  ),
  "trainer.Trainer": "NUM_MICROBATCHES; the learning rate is bound already",
  "trainer.*": _DELETE,
  "utils.CheckpointConfig": (
    f"{_DELETE}: INITIAL_CHECKPOINT_PATH and utils.SaveCheckpointConfig say it"
  ),
  "utils.RestoreCheckpointConfig": (
    "INITIAL_CHECKPOINT_PATH, and RESTORE_OPTIMIZER"
  ),
  "utils.get_training_eval_datasets": _EVALUATION,
}

# Parameters of T5X that dss_jax's configurable of the name has not.
_PARAMETERS = {
  "eval_steps": "EVAL_STEPS",
  "infer_eval_dataset_cfg": _EVALUATION,
  "label_smoothing": f"{_DELETE}: losses.Objective takes LABEL_SMOOTHING",
  "loss_normalizing_factor": (
    f"{_DELETE}: losses.Objective takes LOSS_NORMALIZING_FACTOR"
  ),
  "logical_factor_rules": f"{_DELETE}: Adafactor has T5X's rules",
  "module": "MIXTURE_OR_TASK_MODULE",
  "random_seed": "RANDOM_SEED",
  "relative_steps": _STEPS,
  "seed": f"{_DELETE}: RANDOM_SEED shuffles",
  "shuffle": f"{_DELETE}: RANDOM_SEED shuffles",
  "train_eval_dataset_cfg": _EVALUATION,
  "z_loss": f"{_DELETE}: losses.Objective takes Z_LOSS",
}
_SCOPES = ("train_eval", "infer_eval")


def of_file(path: str) -> str | None:
  """What to do in place of one of T5X's files; None for another file."""
  _, found, within = f"/{path}".rpartition("/t5x/")
  for pattern, advice in _FILES:
    if found and (match := re.fullmatch(pattern, within)):
      return match.expand(advice)
  return None


def of_scope(scope: str) -> str | None:
  """What to do with bindings in one of T5X's scopes; None for another one."""
  return _EVALUATION if scope.partition("/")[0] in _SCOPES else None


def of_name(name: str) -> str | None:
  """What to write for one of T5X's configurables; None if it is none."""
  for pattern, advice in _NAMES.items():
    if name == pattern or (
      pattern.endswith("*") and name.startswith(pattern[:-1])
    ):
      return advice
  return None


def check(statements: Sequence[Statement], file: str) -> None:
  """Raises UserError for a file that imports or includes T5X.

  Its details name every line to change.
  """
  if not any(map(_is_t5x, statements)):
    return
  if whole := of_file(file):
    raise UserError(f"--gin_file: {file!r} is T5X's own: {whole}")
  finetunes = any(
    each.name.endswith(("/finetune.gin", "INITIAL_CHECKPOINT_PATH"))
    for each in statements
  )
  changes = sorted(
    (each.line, each.text.partition("  #")[0], advice)
    for each in statements
    if (advice := _advice(each, finetunes))
  )
  line, text, advice = changes[0]
  raise UserError(
    f"--gin_file: {file!r} is written for T5X, which dss_jax does not import:"
    f" change {len(changes)} of its lines, the first one {line} ({text}:"
    f" {advice})",
    details="\n".join(
      f"  line {line:<4} {text:48}  {advice}" for line, text, advice in changes
    ),
  )


def _is_t5x(statement: Statement) -> bool:
  if statement.kind == IMPORT:
    return statement.name.split(".")[0] in ("__gin__", "__main__", "t5x")
  return statement.kind == INCLUDE and statement.name.startswith("t5x/")


def _advice(statement: Statement, finetunes: bool) -> str | None:
  """What to do with a statement; None if dss_jax reads it as T5X does."""
  if finetunes and statement.is_macro and statement.name == "TRAIN_STEPS":
    return "leave out the checkpoint's own steps, which T5X counts"
  if statement.kind == IMPORT:
    known = ("seqio", "optax", "flax", "jax", "airio")
    gone = _is_t5x(statement) or statement.name.split(".")[0] in known
    return _DELETE if gone else None
  if statement.kind == INCLUDE:
    copy = "copy what you need of it to here, and change it likewise"
    return (of_file(statement.name) or copy) if _is_t5x(statement) else None
  if advice := of_scope(statement.scope):
    return advice if statement.kind == BLOCK else None
  if statement.is_macro:
    return MACROS.get(statement.name) or _of_references(statement)
  return _of_parameter(statement)


def _of_parameter(statement: Statement) -> str | None:
  """What to do with a parameter, or with the head of a block of them."""
  name = statement.name
  if name == "train_script.train":
    if statement.kind == BLOCK:
      return "train.train:"
    name = "train.train"
  if advice := of_name(name):
    # What is said at the head of a block need not be said again.
    return advice if statement.kind == BLOCK or _is_alone(statement) else None
  target = gin_registry.configurables.get(name)
  if target is None or statement.kind != BINDING:
    return None
  if statement.parameter not in inspect.signature(target).parameters:
    return _PARAMETERS.get(statement.parameter, _DELETE)
  if statement.name != name and _is_alone(statement):
    return f"{name}.{statement.parameter} = ..."
  return _of_references(statement)


def _is_alone(statement: Statement) -> bool:
  """Whether a binding stands outside of a block."""
  return statement.text.startswith(statement.name)


def _of_references(statement: Statement) -> str | None:
  for name in gin_statements.references(statement.value):
    if isinstance(name, gin_statements.Macro):
      continue
    if name.rpartition("/")[2] not in gin_registry.configurables:
      return of_name(name.rpartition("/")[2]) or _DELETE
  return None
