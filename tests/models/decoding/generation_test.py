"""Batches of all lengths decoded and handed back in their order."""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models

from dss_jax.base import compilations
from dss_jax.base.errors import UserError
from dss_jax.models.decoding import generation
from dss_jax.models.decoding.allowed_outputs import Trie
from dss_jax.models.decoding.decode_options import DecodeOptions
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.models.partitioning import Partitioner


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

  def decode(
    self, decode_step_fn, cache, key, *, max_decode_length, constrain, compact
  ):
    del decode_step_fn, key, constrain, compact
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
def test_wrong_options_are_refused_before_anything_is_trained(settings, name):
  with pytest.raises(UserError, match=rf"^{name} is ") as e:
    DecodeOptions(**settings)
  assert f"DecodeOptions.{name}" in e.value.fields
  assert "\n" not in str(e.value)
  assert str(*settings.values()) in str(e.value)


def test_outputs_may_be_a_quarter_longer_than_targets():
  assert [generation.decode_length(n) for n in (1, 6, 7, 64)] == [8, 8, 8, 80]


# ---------------------------------------------------------------- with a student


@functools.cache
def _student():
  model = EncoderDecoderModel(small_models.SMALL)
  return model, small_models.random_params(small_models.SMALL)


def _generator(options, batch_size=4):
  partitioner = Partitioner(devices=jax.devices()[:1])
  model, _ = _student()
  return generation.Generator(
    model, partitioner, options, batch_size=batch_size
  )


INPUTS = [[5, 6, 1], [7, 1], [3, 3, 3, 3, 9, 4, 1], [8, 2, 1], [4, 1]]


@pytest.mark.slow
def test_all_outputs_come_with_their_scores():
  _, params = _student()
  kwargs: Any = {"max_decode_length": 5}
  options = DecodeOptions(
    "beam", num_beams=3, num_return=3, convention="huggingface"
  )
  generator = _generator(options)
  found = generator.decode(params, INPUTS, **kwargs)
  best, scores = generator(params, INPUTS, **kwargs)
  for outputs, tokens, score in zip(found, best, scores, strict=True):
    assert outputs[0].tokens == tokens
    assert outputs[0].score == pytest.approx(float(score))
    assert len({tuple(output.tokens) for output in outputs}) == 3
    assert sorted(outputs, key=lambda o: -o.score) == outputs
  # Of two members no more than two come back.
  members = [[2], [3, 6]]
  trie = Trie.from_sequences(members)
  found = generator.decode(params, INPUTS, constrain=trie, **kwargs)
  for outputs in found:
    assert sorted(output.tokens for output in outputs) == members
    assert all(output.ended for output in outputs)


@pytest.mark.slow
def test_nothing_is_compiled_after_each_declared_shape_was_met():
  _, params = _student()
  options = DecodeOptions("sample", num_return=2)
  generator = _generator(options)
  settings: Any = {"max_decode_length": 4}
  generator.declare(lengths=[4, 8], batch_sizes=[1, 2])
  for length in (4, 8):
    for size in (1, 2, 4):
      generator.decode(params, [[2] * length] * size, **settings)
  before = compilations.count()
  for count in (1, 2, 3, 5):
    found = generator.decode(params, INPUTS[:count], seed=count, **settings)
    assert [len(outputs) for outputs in found] == [2] * count
  assert compilations.count() == before
  with pytest.raises(UserError, match="at most 8"):
    generator.decode(params, [[2] * 9], **settings)


def test_what_outputs_may_be_has_to_fit():
  _, params = _student()
  trie = Trie.from_sequences([[4, 5, 6, 7]])
  with pytest.raises(UserError, match="longest that they may be has 5"):
    _generator(DecodeOptions()).decode(
      params, INPUTS, max_decode_length=4, constrain=trie
    )
