"""The configuration checks its own values and says what to change."""

import dataclasses
from typing import Any

import pytest

from dss_jax.base.errors import UserError
from dss_jax.models.config import T5Config


def test_lists_from_gin_become_tuples_so_that_configs_hash():
  from_gin: Any = ["gelu", "linear"]
  config = T5Config(vocab_size=8, mlp_activations=from_gin)
  assert config.mlp_activations == ("gelu", "linear")
  assert hash(config) == hash(T5Config(vocab_size=8))


def test_joined_dim_need_not_be_the_embedding_dim():
  config = T5Config(vocab_size=8, emb_dim=48, num_heads=5, head_dim=7)
  assert config.joined_kv_dim == 35


@pytest.mark.parametrize(
  ("field", "value", "allowed"),
  [
    ("vocab_size", 0, "a positive integer"),
    ("emb_dim", 12.0, "a positive integer"),
    ("num_heads", True, "a positive integer"),
    ("num_decoder_layers", -1, "a positive integer"),
    ("dtype", "float16", "one of float32, bfloat16"),
    ("remat_policy", None, "one of none, minimal, full"),
    ("dropout_broadcast", "batch", "one of length, full"),
    ("dropout_rate", 1.0, "a number from 0 to below 1"),
    ("dropout_rate", "0.1", "a number from 0 to below 1"),
    ("dropout_rate", float("nan"), "a number from 0 to below 1"),
    ("scan_layers", 1, "True or False"),
    ("mlp_activations", (), "one or more of"),
    ("mlp_activations", "gelu", "one or more of"),
    ("mlp_activations", ("gelu", "geglu"), "one or more of"),
  ],
)
def test_wrong_values_are_named_with_their_field(field, value, allowed):
  with pytest.raises(UserError) as error:
    T5Config(**{"vocab_size": 8, field: value})
  message = str(error.value)
  assert "\n" not in message
  assert repr(value) in message
  assert allowed in message
  assert error.value.fields == (f"T5Config.{field}",)


def test_is_immutable():
  config = T5Config(vocab_size=8)
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.vocab_size = 9  # type: ignore[misc]
