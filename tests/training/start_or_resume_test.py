"""Which runs share a compiled step."""

import dataclasses

import jax
import pytest
import small_runs
from small_runs import SIZES

from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.models.lora import LoraOptions
from dss_jax.planning import abstract_run
from dss_jax.training import losses, optimizers, start_or_resume
from dss_jax.training.optimizers import schedules

SHAPE = BatchShape(
  rows=8, encoder_length=48, decoder_length=64, records_per_batch=8
)


def _rate(base, warmup_steps, total_steps):
  return schedules.create_learning_rate_scheduler(
    "constant * linear_warmup * linear_to_zero",
    base_learning_rate=base,
    warmup_steps=warmup_steps,
    total_steps=total_steps,
  )


def _program(folder, **changes) -> str:
  """The text of a run's step."""
  settings = {
    "learning_rate_fn": _rate(0.1, 10, 100),
    "model": EncoderDecoderModel(dataclasses.replace(SIZES, dropout_rate=0.1)),
  }
  config = small_runs.config(folder, **(settings | changes))
  run = abstract_run.of_shape(config, SHAPE, ("label", "rationale"))
  step = start_or_resume.jit_step(
    config,
    run.subtask_names,
    run.tx,
    run.shardings,
    adapted=(run.adapters.on, run.frozen) if run.adapters else None,
  )
  return step.lower(run.state, run.batch()).as_text()


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"optimizer": optimizers.Adafactor()},
    {"lora": LoraOptions(), "initial_checkpoint_path": "base"},
  ],
  ids=["adamw", "adafactor", "lora"],
)
def test_rates_weights_and_seeds_share_a_program(tmp_path, settings):
  one = _program(tmp_path, **settings)
  other = _program(
    tmp_path,
    learning_rate_fn=_rate(0.3, 20, 50),
    objective=losses.Objective(alpha=0.9),
    random_seed=7,
    total_steps=50,
    **settings,
  )
  assert one == other


def test_schedules_of_weights_share_a_program(tmp_path):
  one, other = (
    _program(tmp_path, objective=losses.Objective(alpha=alpha))
    for alpha in ({0: 0.9, 100: 0.5}, {10: 0.2, 30: 0.8})
  )
  assert one == other


def test_other_losses_are_other_programs(tmp_path):
  z_loss = losses.Objective(z_loss=1e-3)
  assert _program(tmp_path) != _program(tmp_path, objective=z_loss)


def test_another_function_is_another_program(tmp_path):
  """Somebody's own schedule is part of the program, constants and all."""
  one, other = (
    _program(tmp_path, learning_rate_fn=lambda step, rate=rate: rate + 0 * step)
    for rate in (jax.numpy.float32(0.5), jax.numpy.float32(0.25))
  )
  assert one != other
