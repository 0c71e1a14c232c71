"""Errors of the library name fields; the command line adds what sets them."""

import pytest

from dss_jax.base.errors import UserError
from dss_jax.cli import error_hints, gin_config
from dss_jax.training.evaluation import EvaluationConfig


def test_a_field_that_is_a_flag():
  error = UserError("batch_size is 0", fields="Predictor.batch_size")
  assert error_hints.with_hints(error, {"batch_size"}) == (
    "batch_size is 0 (--batch_size)"
  )


def test_a_field_that_nothing_sets():
  error = UserError("batch_size is 0", fields="Predictor.batch_size")
  assert error_hints.with_hints(error, {"gin_file"}) == "batch_size is 0"


@pytest.mark.parametrize(
  ("field", "value", "hint"),
  [
    ("loss_batches", -1, "--gin.EVAL_STEPS"),
    ("batch_size", 0, "--gin.evaluation.EvaluationConfig.batch_size"),
  ],
)
def test_fields_that_gin_sets(field, value, hint):
  gin_config.parse(["models/taxonli.gin", "runs/train.gin"])
  try:
    with pytest.raises(UserError) as caught:
      EvaluationConfig(**{field: value})
    text = error_hints.with_hints(caught.value, {"gin_file"})
  finally:
    gin_config.clear()
  assert text.startswith(f"{field} is {value}; it must be")
  assert text.endswith(f"({hint})")
