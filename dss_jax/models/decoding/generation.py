"""Generation: lists of token ids in, lists of token ids out.

The algorithms next to this module decode one batch; here inputs of all lengths
are put into batches of a few fixed shapes, decoded on the mesh and returned in
their order.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID, PAD_ID
from dss_jax.models import encoder_decoder, partitioning
from dss_jax.models.decoding import beam_search, input_batches
from dss_jax.models.decoding.allowed_outputs import Constraint, Trie
from dss_jax.models.decoding.decode_options import DecodeOptions

PyTree = Any

# Batches that may wait for the devices at a time.
_IN_FLIGHT = 2
# Outputs of so many tokens differ in length by more than compiling costs.
_LONG_OUTPUTS = 16


class Decoded(NamedTuple):
  """One output of an example.

  Attributes:
    tokens: its ids, without EOS and padding.
    score: its log-probability, or what the beam search makes of it.
    ended: whether it came to its EOS within the length limit.
  """

  tokens: list[int]
  score: float
  ended: bool


class Generator:
  """Decodes token lists with one student on one mesh.

  Compiled once for each shape. By default the shapes follow from the inputs
  of a call, few of them (see `input_batches.padded_batches`); `declare` says
  others, and nothing else is compiled after they were met once.
  """

  def __init__(
    self,
    model: encoder_decoder.EncoderDecoderModel,
    partitioner: partitioning.Partitioner,
    options: DecodeOptions,
    *,
    batch_size: int,
  ):
    self.model = model
    self.partitioner = partitioner
    self.options = options
    self.batch_size = self._whole_shards(batch_size)
    self._lengths: tuple[int, ...] | None = None
    self._batch_sizes = (self.batch_size,)
    self._generate = jax.jit(
      self._generate_tokens, static_argnames=("max_decode_length",)
    )

  def _whole_shards(self, batch_size: int) -> int:
    shards = self.partitioner.batch_shards
    return -(-batch_size // shards) * shards

  def _generate_tokens(
    self,
    params: PyTree,
    encoder_input_tokens: jax.Array,
    key: jax.Array,
    constrain: Constraint | None,
    *,
    max_decode_length: int,
  ) -> tuple[jax.Array, jax.Array]:
    encoded = self.model.encode(params, encoder_input_tokens)
    cache = self.model.init_cache(
      params, encoded, encoder_input_tokens, max_decode_length
    )
    step = functools.partial(self.model.decode_step, params)
    return self.options.decode(
      step,
      cache,
      key,
      max_decode_length=max_decode_length,
      constrain=constrain,
      compact=self._compacts(max_decode_length),
    )

  def _compacts(self, max_decode_length: int) -> bool:
    """Whether outputs that end early are worth leaving the batch early.

    Not for labels, which all end early, nor on accelerators, whose steps take
    as long with fewer rows, nor over several devices, between which rows would
    have to move.
    """
    devices = self.partitioner.mesh.devices
    return (
      max_decode_length >= _LONG_OUTPUTS
      and devices.size == 1
      and devices.flat[0].platform == "cpu"
    )

  def _put(self, tokens: np.ndarray) -> jax.Array:
    """A global array [rows, length] of rows that each host has whole."""
    rows = self.partitioner.process_rows(len(tokens))
    name = "encoder_input_tokens"
    return self.partitioner.put_batch(
      {name: tokens[rows]}, {name: tokens.shape}
    )[name]

  def _decode_length(
    self, max_decode_length: int, constrain: Trie | None
  ) -> int:
    longest = self.options.max_length or max_decode_length
    if constrain is None:
      return longest
    if constrain.longest > longest:
      raise UserError(
        f"outputs may have {longest} tokens, but the longest that they may be"
        f" has {constrain.longest}: raise max_length",
        fields="DecodeOptions.max_length",
      )
    return constrain.longest

  def __call__(
    self,
    params: PyTree,
    inputs: Sequence[Sequence[int]],
    *,
    max_decode_length: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
  ) -> tuple[list[list[int]], np.ndarray]:
    """The best output of each input; takes what `decode` takes.

    Returns:
      Output ids of each input (EOS and padding cut off), in input order, and
      their scores [num_examples] float32 (log-probabilities as decoded).
    """
    decoded = self.decode(
      params,
      inputs,
      max_decode_length=max_decode_length,
      seed=seed,
      progress=progress,
    )
    scores = np.array([best.score for best, *_ in decoded], np.float32)
    return [best.tokens for best, *_ in decoded], scores

  def decode(
    self,
    params: PyTree,
    inputs: Sequence[Sequence[int]],
    *,
    max_decode_length: int,
    seed: int = 0,
    constrain: Trie | None = None,
    progress: Callable[[int], None] | None = None,
  ) -> list[list[Decoded]]:
    """The best outputs of each input: `options.num_return`, best first.

    Args:
      params: the student's parameters, on the partitioner's mesh.
      inputs: token ids of each example, EOS included.
      max_decode_length: longest output, in tokens, if the options do not say.
      seed: of sampling, where the options sample.
      constrain: outputs are among its sequences, the longest of which is the
        longest output.
      progress: called with the number of examples done.

    Returns:
      Outputs of each input, in input order; fewer than asked for, but one at
      least, where no more have ended ("t5x" beams) or the constraint has no
      more.

    Raises:
      UserError: an input is longer than the declared lengths, or a sequence of
        the constraint longer than outputs may be.
    """
    length = self._decode_length(max_decode_length, constrain)
    outputs: list[list[Decoded]] = [[] for _ in inputs]
    key = jax.random.key(seed)
    waiting: collections.deque[tuple[np.ndarray, Any]] = collections.deque()
    done = 0

    def collect() -> None:
      nonlocal done
      index, found = waiting.popleft()
      tokens, scores = map(partitioning.to_host, found)
      for row, example in enumerate(index):
        if example >= 0:
          outputs[example] = _best(tokens[row], scores[row])
          done += 1
      if progress:
        progress(done)

    with self.partitioner.activate():
      for number, batch in enumerate(self._batches(inputs)):
        found = self._generate(
          params,
          self._put(batch.encoder_input_tokens),
          jax.random.fold_in(key, number),
          constrain,
          max_decode_length=length,
        )
        waiting.append((batch.index, found))
        if len(waiting) > _IN_FLIGHT:
          collect()
      while waiting:
        collect()
    return outputs

  def _batches(
    self, inputs: Sequence[Sequence[int]]
  ) -> Iterator[input_batches.PaddedBatch]:
    for batch in input_batches.padded_batches(
      inputs,
      self.batch_size,
      lengths=self._lengths,
      batch_sizes=self._batch_sizes,
    ):
      # Rows that only fill the batch decode a real input, so that they end when
      # others do and not at the longest output.
      batch.encoder_input_tokens[batch.index < 0] = batch.encoder_input_tokens[
        0
      ]
      yield batch

  def declare(
    self, *, lengths: Sequence[int], batch_sizes: Sequence[int] = ()
  ) -> None:
    """Declares the shapes of the calls to come; each is compiled once.

    Args:
      lengths: of inputs, in tokens. Inputs are padded to the shortest that
        holds them; longer ones are refused.
      batch_sizes: how many inputs are decoded together, next to `batch_size`;
        the last of a call take the smallest that holds them. Rounded up to
        whole shards of the mesh.
    """
    sizes = {self._whole_shards(size) for size in batch_sizes}
    self._batch_sizes = tuple(
      sorted({s for s in sizes if s < self.batch_size} | {self.batch_size})
    )
    self._lengths = tuple(sorted(set(lengths)))


def _best(tokens: np.ndarray, scores: np.ndarray) -> list[Decoded]:
  """The outputs of one example, of [num_return, length] and [num_return]."""
  decoded = []
  for row, score in zip(tokens, scores.tolist(), strict=True):
    if score > beam_search.NO_SEQUENCE or not decoded:
      ends = np.flatnonzero((row == EOS_ID) | (row == PAD_ID))
      end = int(ends[0]) if ends.size else len(row)
      ended = end < len(row) and row[end] == EOS_ID
      decoded.append(Decoded(row[:end].tolist(), score, bool(ended)))
  return decoded


def decode_length(longest_target: int) -> int:
  """How long outputs may get: a quarter above the longest target, in tokens.

  Rounded up to eights, so that splits of a dataset share compiled programs.
  """
  return -(-int(1.25 * longest_target) // 8) * 8
