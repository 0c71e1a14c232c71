"""Batches of all lengths decoded and handed back in their order."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import generation
from dss_jax.errors import UserError
from dss_jax.generation import DecodeOptions
from dss_jax.partitioning import Partitioner


class Echo:
  """A student that keeps its inputs, and options that write them again."""

  max_length: int | None = None

  def encode(self, params, tokens):
    return tokens * params

  def init_cache(self, params, encoded, tokens, max_decode_length):
    del params, tokens, max_decode_length
    return encoded

  def decode_step(self, params, cache, tokens):
    raise AssertionError("the options decode without it")

  def decode(self, decode_step_fn, cache, key, *, max_decode_length, constrain):
    del decode_step_fn, key, constrain
    scores = -jnp.sum(cache, axis=1).astype(jnp.float32)
    padded = jnp.pad(cache, ((0, 0), (0, max_decode_length)))
    return padded[:, None, :max_decode_length], scores[:, None]


def generate(inputs, *, batch_size, max_length=None, **kwargs):
  echo = Echo()
  echo.max_length = max_length
  model, options = (types.SimpleNamespace(
    encode=echo.encode, init_cache=echo.init_cache,
    decode_step=echo.decode_step, decode=echo.decode, max_length=max_length,
  ) for _ in range(2))  # fmt: skip
  generator = generation.Generator(
    model,  # pyright: ignore[reportArgumentType]
    Partitioner(2),
    options,  # pyright: ignore[reportArgumentType]
    batch_size=batch_size,
  )
  assert generator.batch_size % 4 == 0  # rows for every data shard
  return generator(jnp.int32(1), inputs, **kwargs)


def test_outputs_come_in_the_order_of_the_inputs():
  rng = np.random.default_rng(0)
  texts = [rng.integers(2, 99, rng.integers(1, 40)).tolist() for _ in range(45)]
  inputs = [[*text, 1] for text in texts]
  done = []
  outputs, scores = generate(
    inputs, batch_size=6, max_decode_length=41, progress=done.append
  )
  assert outputs == texts  # without EOS and padding
  assert scores.tolist() == [-sum(ids) for ids in inputs]
  assert done == sorted(done)
  assert done[-1] == 45


def test_the_options_may_say_how_long_outputs_get():
  outputs, _ = generate(
    [[5, 6, 7, 1]], batch_size=1, max_decode_length=9, max_length=2
  )
  assert outputs == [[5, 6]]


@pytest.mark.parametrize(
  ("settings", "name"),
  [
    ({"strategy": "beams"}, "strategy"),
    ({"num_beams": 0}, "num_beams"),
    ({"convention": "t5"}, "convention"),
    ({"length_penalty": -1.0}, "length_penalty"),
    ({"early_stopping": True}, "early_stopping"),
    ({"temperature": -0.5}, "temperature"),
    ({"topk": -1}, "topk"),
    ({"topp": 1.5}, "topp"),
    ({"max_length": 0}, "max_length"),
    ({"num_return": 2}, "num_return"),
    ({"num_return": 0}, "num_return"),
  ],
)
def test_wrong_options_are_told_before_anything_is_trained(settings, name):
  with pytest.raises(UserError, match=rf"decoding\.DecodeOptions\.{name}") as e:
    DecodeOptions(**settings)
  assert "\n" not in str(e.value)
  assert str(*settings.values()) in str(e.value)


def test_outputs_may_be_a_quarter_longer_than_targets():
  assert [generation.decode_length(n) for n in (1, 6, 7, 64)] == [8, 8, 8, 80]
