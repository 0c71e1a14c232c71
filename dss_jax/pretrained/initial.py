"""Parameters to start training from: another run's, or T5X's."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from dss_jax import checkpoints as checkpoints_lib
from dss_jax import train_state
from dss_jax.errors import UserError
from dss_jax.models import encoder_decoder, layer_stacking
from dss_jax.pretrained import t5x

PyTree = Any


def load_params(
    path: str, model: encoder_decoder.EncoderDecoderModel
) -> PyTree:
  """The parameters at `path`, checked against the student.

  Args:
    path: a run's MODEL_DIR (its best checkpoint is taken), or a folder written
      by T5X, in its Orbax or its legacy form.
    model: the student they are for.

  Returns:
    Nested dict of float32 host arrays, with the student's paths.

  Raises:
    UserError: where there is no checkpoint, or one of another model.
  """
  folder = pathlib.Path(path)
  if (folder / checkpoints_lib.FOLDER).is_dir():
    with checkpoints_lib.Checkpoints(folder, read_only=True) as saved:
      params = saved.restore_numpy(saved.resolve_step("best"))["params"]
  else:
    params, _, _ = t5x.load_t5x(path)
  wanted = checkpoints_lib.shapes(train_state.param_shapes(model))
  found = checkpoints_lib.shapes(params)
  if found != wanted and model.config.scan_layers:
    params = layer_stacking.stack_layers(params)
    found = checkpoints_lib.shapes(params)
  problems = checkpoints_lib.describe_mismatch(found, wanted)
  if problems:
    raise UserError(
        f"INITIAL_CHECKPOINT_PATH {path!r} is of another model: {problems};"
        " give the models/*.gin it was trained with"
    )
  return jax.tree.map(lambda array: array.astype("float32"), params)
