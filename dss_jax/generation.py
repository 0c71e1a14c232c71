"""Generation: lists of token ids in, lists of token ids out.

`decoding` knows one batch and one algorithm; here inputs of all lengths are
put into batches of a few fixed shapes, decoded on the mesh and handed back in
their order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dss_jax import beam_search, decoding, partitioning
from dss_jax.data import evaluation_batches, vocabularies
from dss_jax.errors import UserError
from dss_jax.models import encoder_decoder

PyTree = Any
STRATEGIES = ("greedy", "beam", "sample")


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
  """How outputs are found.

  Attributes:
    strategy: `greedy`, `beam` or `sample`.
    num_beams: width of the beam.
    convention: of the beam search's length penalty and stopping, `t5x` or
      `huggingface`.
    length_penalty: its exponent; None takes the convention's default.
    early_stopping: see `decoding.beam_search` (`huggingface` only).
    temperature: of sampling.
    topk: sample among this many most probable tokens; 0 for all.
    topp: sample among the fewest tokens that hold this probability; 0 for all.
    max_length: longest output in tokens; None lets the task decide.
  """

  strategy: str = "greedy"
  num_beams: int = 4
  convention: str = "t5x"
  length_penalty: float | None = None
  early_stopping: bool | str = False
  temperature: float = 1.0
  topk: int = 0
  topp: float = 0.0
  max_length: int | None = None

  def __post_init__(self):
    """Checks all settings now: their first use may be hours of training away.

    Raises:
      UserError: a value outside of the above.
    """
    where = "set decoding.DecodeOptions"
    if self.strategy not in STRATEGIES:
      raise UserError(
        f"strategy is {self.strategy!r} but must be one of"
        f" {', '.join(STRATEGIES)}: {where}.strategy"
      )
    beam_search.check_settings(
      self.convention, self.length_penalty, self.early_stopping, self.num_beams
    )
    if not self.temperature >= 0.0:
      raise UserError(
        f"temperature is {self.temperature} but must be 0 or more:"
        f" {where}.temperature"
      )
    decoding.check_sampling(self.topk, self.topp)
    if self.max_length is not None and self.max_length < 1:
      raise UserError(
        f"max_length is {self.max_length} but must be None or 1 or more:"
        f" {where}.max_length"
      )
    for name, valid, allowed in (
      ("num_beams", self.num_beams >= 1, "1 or more"),
      ("temperature", self.temperature >= 0, "0 or more"),
      ("topk", self.topk >= 0, "0 or more"),
      ("topp", 0 <= self.topp <= 1, "from 0 to 1"),
      (
        "max_length",
        self.max_length is None or self.max_length >= 1,
        "1 or more, or None",
      ),
    ):
      if not valid:
        raise UserError(
          f"decoding.DecodeOptions.{name} is {getattr(self, name)!r}; it must"
          f" be {allowed}"
        )

  def decode(
    self,
    decode_step_fn: decoding.DecodeStepFn,
    cache: Any,
    key: jax.Array,
    *,
    max_decode_length: int,
  ) -> tuple[jax.Array, jax.Array]:
    """The best output of each example.

    Returns:
      tokens [batch, max_decode_length] int32 and scores [batch] float32.
    """
    if self.strategy == "greedy":
      return decoding.greedy(
        decode_step_fn, cache, max_decode_length=max_decode_length
      )
    if self.strategy == "beam":
      tokens, scores = decoding.beam_search(
        decode_step_fn,
        cache,
        max_decode_length=max_decode_length,
        num_beams=self.num_beams,
        convention=self.convention,
        length_penalty=self.length_penalty,
        early_stopping=self.early_stopping,
      )
    else:
      tokens, scores = decoding.temperature_sample(
        decode_step_fn,
        cache,
        key,
        max_decode_length=max_decode_length,
        temperature=self.temperature,
        topk=self.topk,
        topp=self.topp,
      )
    return tokens[:, 0], scores[:, 0]


class Generator:
  """Decodes token lists with one student on one mesh.

  Compiled once for each shape; the shapes are few (see
  `evaluation_batches.padded_batches`).
  """

  def __init__(
    self,
    model: encoder_decoder.EncoderDecoderModel,
    partitioner: partitioning.Partitioner,
    options: DecodeOptions,
    *,
    batch_size: int,
  ):
    shards = partitioner.data_size
    self.model = model
    self.partitioner = partitioner
    self.options = options
    self.batch_size = -(-batch_size // shards) * shards
    self._generate = jax.jit(
      self._generate_tokens, static_argnames=("max_decode_length",)
    )

  def _generate_tokens(
    self,
    params: PyTree,
    encoder_input_tokens: jax.Array,
    key: jax.Array,
    *,
    max_decode_length: int,
  ) -> tuple[jax.Array, jax.Array]:
    encoded = self.model.encode(params, encoder_input_tokens)
    cache = self.model.init_cache(
      params, encoded, encoder_input_tokens, max_decode_length
    )
    step = functools.partial(self.model.decode_step, params)
    return self.options.decode(
      step, cache, key, max_decode_length=max_decode_length
    )

  def _put(self, tokens: np.ndarray) -> jax.Array:
    """A global array of all hosts' rows; each host has them all."""
    rows = self.partitioner.process_rows(len(tokens))
    name = "encoder_input_tokens"
    return self.partitioner.put_batch(
      {name: tokens[rows]}, {name: tokens.shape}
    )[name]

  def __call__(
    self,
    params: PyTree,
    inputs: Sequence[Sequence[int]],
    *,
    max_decode_length: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
  ) -> tuple[list[list[int]], np.ndarray]:
    """The best output of each input.

    Args:
      params: the student's parameters, on the partitioner's mesh.
      inputs: token ids of each example, EOS included.
      max_decode_length: longest output, in tokens, if the options do not say.
      seed: of sampling, where the options sample.
      progress: called with the number of examples done.

    Returns:
      Output ids of each input (EOS and padding cut off), in input order, and
      their scores [num_examples] float32 (log-probabilities as decoded).
    """
    max_decode_length = self.options.max_length or max_decode_length
    outputs: list[list[int]] = [[] for _ in inputs]
    scores = np.zeros(len(inputs), np.float32)
    key = jax.random.key(seed)
    done = 0
    with self.partitioner.activate():
      for number, batch in enumerate(
        evaluation_batches.padded_batches(inputs, self.batch_size)
      ):
        decoded, decoded_scores = self._generate(
          params,
          self._put(batch.encoder_input_tokens),
          jax.random.fold_in(key, number),
          max_decode_length=max_decode_length,
        )
        decoded = partitioning.to_host(decoded)
        decoded_scores = partitioning.to_host(decoded_scores)
        for row, example in enumerate(batch.index):
          if example >= 0:
            outputs[example] = _until_eos(decoded[row])
            scores[example] = decoded_scores[row]
            done += 1
        if progress:
          progress(done)
    return outputs, scores


def _until_eos(tokens: np.ndarray) -> list[int]:
  ends = np.flatnonzero(
    (tokens == vocabularies.EOS_ID) | (tokens == vocabularies.PAD_ID)
  )
  return tokens[: ends[0] if ends.size else None].tolist()


def decode_length(longest_target: int) -> int:
  """How long outputs may get: a quarter above the longest target, in tokens.

  Rounded up to eights, so that splits of a dataset share compiled programs.
  """
  return -(-int(1.25 * longest_target) // 8) * 8
