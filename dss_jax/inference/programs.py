"""Decoding in declared shapes: each is compiled once, and inputs fill them.

A shape is a number of sequences and a number of tokens. Short inputs go to
short rows, so that none is padded to the longest; a batch that would be part
empty takes the smallest number of sequences that holds it.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax import decoding, partitioning
from dss_jax.data import evaluation_batches
from dss_jax.data.vocabularies import EOS_ID
from dss_jax.generation import DecodeOptions
from dss_jax.inference.student import Student

# Batches that the devices may have waiting.
_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class Search:
  """How outputs are found, and how many of each input.

  Attributes:
    options: strategy and its settings.
    num_outputs: of each input, the best first.
    max_length: of an output, in tokens, end id included.
  """

  options: DecodeOptions
  num_outputs: int
  max_length: int

  def __call__(
    self, step: decoding.DecodeStepFn, cache: Any, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Tokens [batch, num_outputs, length] and log-probabilities [batch, .]."""
    options = self.options
    if options.strategy == "greedy":
      tokens, log_probs = decoding.greedy(
        step, cache, max_decode_length=self.max_length
      )
      return tokens[:, None], log_probs[:, None]
    if options.strategy == "sample":
      return decoding.temperature_sample(
        step,
        cache,
        key,
        max_decode_length=self.max_length,
        temperature=options.temperature,
        topk=options.topk,
        topp=options.topp,
        num_decodes=self.num_outputs,
        rescale_log_probs=False,
      )
    tokens, scores = decoding.beam_search(
      step,
      cache,
      max_decode_length=self.max_length,
      num_beams=max(options.num_beams, self.num_outputs),
      convention=options.convention,
      length_penalty=options.length_penalty,
      early_stopping=options.early_stopping,
    )
    tokens = tokens[:, : self.num_outputs]
    scores = scores[:, : self.num_outputs]
    return tokens, self._log_probs(tokens, scores)

  def _log_probs(self, tokens: jax.Array, scores: jax.Array) -> jax.Array:
    """Beam search's scores without what they hold of the length."""
    length = jnp.sum(tokens != 0, axis=-1).astype(jnp.float32)
    penalty = self.options.length_penalty
    if self.options.convention == "huggingface":
      return scores * length ** (1.0 if penalty is None else penalty)
    # What did not come to an end is scored as it is: see `beam_search`.
    ended = jnp.any(tokens == EOS_ID, axis=-1)
    alpha = 0.6 if penalty is None else penalty
    return scores * jnp.where(ended, ((5.0 + length) / 6.0) ** alpha, 1.0)


class Output:
  """The outputs of one input.

  Attributes:
    tokens: [num_outputs, length] int32, the best first, 0 = padding.
    log_probs: [num_outputs] float32.
  """

  __slots__ = ("log_probs", "tokens")

  def __init__(self, tokens: np.ndarray, log_probs: np.ndarray):
    self.tokens = tokens
    self.log_probs = log_probs


class Program:
  """One way of searching, for inputs of all lengths."""

  def __init__(self, student: Student, search: Search):
    self._student = student
    self._search = search
    self._run = jax.jit(self._decode)

  def _decode(self, params: Any, tokens: jax.Array, key: jax.Array):
    model = self._student.model
    encoded = model.encode(params, tokens)
    cache = model.init_cache(params, encoded, tokens, self._search.max_length)

    def step(cache, last):
      return model.decode_step(params, cache, last)

    return self._search(step, cache, key)

  def _start(self, tokens: np.ndarray, key: jax.Array):
    """Begins with a batch; does not wait for what comes out."""
    partitioner, name = self._student.partitioner, "encoder_input_tokens"
    rows = partitioner.process_rows(len(tokens))
    batch = partitioner.put_batch({name: tokens[rows]}, {name: tokens.shape})
    return self._run(self._student.params, batch[name], key)

  def compile(self, batch_size: int, length: int) -> None:
    """Compiles a shape, and runs it once."""
    tokens = np.zeros((batch_size, length), np.int32)
    tokens[:, 0] = EOS_ID
    with self._student.partitioner.activate():
      jax.block_until_ready(self._start(tokens, jax.random.key(0)))

  def __call__(
    self,
    inputs: Sequence[Sequence[int]],
    *,
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
    seed: int,
  ) -> list[Output]:
    """The outputs of each input.

    Args:
      inputs: token ids of each, end id included; none longer than `lengths`.
      batch_sizes: numbers of sequences, ascending.
      lengths: numbers of tokens, ascending.
      seed: of sampling.
    """
    outputs: list[Any] = [None] * len(inputs)
    waiting: collections.deque[Any] = collections.deque()

    def collect() -> None:
      index, found = waiting.popleft()
      tokens, log_probs = map(partitioning.to_host, found)
      for row, position in enumerate(index.tolist()):
        if position >= 0:
          outputs[position] = Output(tokens[row], log_probs[row])

    key = jax.random.key(seed)
    batches = evaluation_batches.padded_batches(
      inputs, batch_sizes[-1], lengths=lengths
    )
    with self._student.partitioner.activate():
      for number, batch in enumerate(batches):
        used = int(np.sum(batch.index >= 0))
        rows = batch_sizes[bisect.bisect_left(batch_sizes, used)]
        tokens = batch.encoder_input_tokens[:rows]
        # What only fills ends when the others do, not at the longest output.
        tokens[used:] = tokens[0]
        found = self._start(tokens, jax.random.fold_in(key, number))
        waiting.append((batch.index[:rows], found))
        if len(waiting) > _IN_FLIGHT:
          collect()
      while waiting:
        collect()
    return outputs
