"""Parameters to start training from: another run's, or T5X's."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dss_jax import checkpoints as checkpoints_lib
from dss_jax import lora, train_state
from dss_jax.errors import UserError
from dss_jax.models import encoder_decoder, layer_stacking
from dss_jax.pretrained import t5x

PyTree = Any

# What any T5X checkpoint may take, however small the student.
_LEAST_BYTES = 1 << 30


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
  if not path:
    raise UserError(
      "INITIAL_CHECKPOINT_PATH is empty: give a folder, or None to start from"
      " random parameters"
    )
  folder = pathlib.Path(path).expanduser()
  wanted = train_state.param_shapes(model)
  if (folder / checkpoints_lib.FOLDER).is_dir():
    params = _load_run(folder, wanted, model)
  else:
    # In T5X's files parameters, moments and factors take at most three times
    # the student's parameters, each of at most eight bytes.
    values = sum(leaf.size for leaf in jax.tree.leaves(wanted))
    max_bytes = max(_LEAST_BYTES, 3 * 8 * values)
    params, _, _ = t5x.load_t5x(folder, max_bytes=max_bytes)
    found = checkpoints_lib.shapes(params)
    if found != checkpoints_lib.shapes(wanted) and model.config.scan_layers:
      params = layer_stacking.stack_layers(params)
      found = checkpoints_lib.shapes(params)
    _check_same(path, found, wanted)
  return jax.tree.map(lambda array: array.astype("float32"), params)


def _load_run(
  folder: pathlib.Path,
  wanted: PyTree,
  model: encoder_decoder.EncoderDecoderModel,
) -> PyTree:
  """The parameters of a run, read as large as the student's and no larger."""
  with checkpoints_lib.Checkpoints(folder, read_only=True) as saved:
    step = saved.resolve_step("best")
    base = saved.base(step)
    if base is not None:
      return _load_adapters(saved, step, base, model)
    found = saved.param_shapes(step)
    stack = found != checkpoints_lib.shapes(wanted) and model.config.scan_layers
    if stack:
      wanted = jax.eval_shape(layer_stacking.unstack_layers, wanted)
    _check_same(str(folder), found, wanted)
    params = _restore_on_host(saved, step, wanted)
  return layer_stacking.stack_layers(params) if stack else params


def _restore_on_host(
  saved: checkpoints_lib.Checkpoints, step: int, wanted: PyTree
) -> PyTree:
  host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
  shardings = jax.tree.map(lambda _: host, wanted)
  params = saved.restore_params(
    step, train_state.with_shardings(wanted, shardings)
  )
  return jax.tree.map(np.asarray, params)


def _load_adapters(
  saved: checkpoints_lib.Checkpoints,
  step: int,
  base: Mapping[str, Any],
  model: encoder_decoder.EncoderDecoderModel,
) -> PyTree:
  """The parameters of a run that trained adapters: its base's, changed."""
  scanned = not any("/layers_" in path for path in saved.param_shapes(step))
  same_layout = encoder_decoder.EncoderDecoderModel(
    dataclasses.replace(model.config, scan_layers=scanned)
  )
  params = load_params(base["path"], same_layout)
  if lora.weights_hash(same_layout, params) != base["sha256"]:
    raise UserError(
      f"the adapters in {saved.folder} were trained on other weights than"
      f" those in {base['path']!r} now: put those back, or give another"
      " INITIAL_CHECKPOINT_PATH"
    )
  options = {
    field.name: base[field.name]
    for field in dataclasses.fields(lora.LoraOptions)
  }
  adapters = lora.LoraModel(same_layout, lora.LoraOptions(**options))
  wanted = train_state.param_shapes(adapters)
  params = adapters.merge(params, _restore_on_host(saved, step, wanted))
  if scanned == model.config.scan_layers:
    return params
  change = (
    layer_stacking.unstack_layers if scanned else layer_stacking.stack_layers
  )
  return change(params)


def _check_same(
  path: str, found: Mapping[str, tuple[int, ...]], wanted: PyTree
) -> None:
  problems = checkpoints_lib.describe_mismatch(
    found, checkpoints_lib.shapes(wanted)
  )
  if problems:
    raise UserError(
      f"INITIAL_CHECKPOINT_PATH {path!r} is of another model: {problems};"
      " give the models/*.gin it was trained with"
    )
