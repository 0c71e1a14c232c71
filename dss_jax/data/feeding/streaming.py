"""Packed batches from a stream, for corpora too large to materialise.

`StreamingBatches` has the interface of `batches.PackedBatches`, so the loop
trains on either. A *window* of batches is read from the stream and packed at
once, and windows follow each other: batch `step` depends on the seed and the
step alone, but to get there everything before its window must be read again.
Steps in order cost nothing extra; resuming costs the reading of what is
skipped. Every host reads the whole stream and builds its own rows.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.data.feeding.batches import HostRows, Window, WindowedBatches
from dss_jax.data.packing import packing_plans
from dss_jax.data.packing.packed_features import Layout
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.tokens.example_stream import Stream, StreamExample
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


def sample(stream: Stream, num_examples: int) -> ExampleSet:
  """The first examples of a stream as a set, to choose a batch shape by."""
  found = list(itertools.islice(stream.open(), num_examples))
  arrays, _, _ = _arrays(stream, found)
  return ExampleSet(
    subtasks=arrays,
    rates=stream.rates,
    paired=False,
    num_records=max(len(found), 1),
    fingerprint=stream.fingerprint,
    vocabulary=stream.vocabulary.name,
    task_name=stream.name,
    split=stream.split,
  )


def _arrays(
  stream: Stream, found: list[StreamExample]
) -> tuple[tuple[TokenArrays, ...], np.ndarray, np.ndarray]:
  """Examples by sub-task, and where each one lies there.

  Returns:
    (arrays, [n] sub-task of each example, [n] position in its sub-task). A
    stream has no records: every example counts as one, numbered from 0.
  """
  subtask = np.array([example.subtask for example in found], np.int64)
  place = np.zeros(len(found), np.int64)
  arrays = []
  for index, name in enumerate(stream.subtask_names):
    members = np.flatnonzero(subtask == index)
    place[members] = np.arange(len(members))
    examples = [found[i] for i in members]
    inputs: Any = [example.inputs for example in examples]
    targets: Any = [example.targets for example in examples]
    weights = [example.weight for example in examples]
    records = members.tolist()
    arrays.append(
      TokenArrays.from_lists(name, inputs, targets, records, weights)
    )
  return tuple(arrays), subtask, place


class StreamingBatches(WindowedBatches):
  """The batches of a stream; `batches[step]`, cheapest in order.

  Not safe to use from several threads at once.

  Attributes:
    stream: the examples.
    shape: the global batch; its records count as examples of each sub-task
      with a positive rate, as they do for `PackedBatches`.
    feature_specs: name -> shape and dtype of the global batch's features.
  """

  def __init__(
    self,
    stream: Stream,
    shape: BatchShape,
    *,
    host_rows: HostRows = slice(None),
  ):
    """`host_rows`: the rows of the global batch to build (of this host)."""
    self.stream = stream
    units = shape.records_per_batch * sum(rate > 0 for rate in stream.rates)
    super().__init__(shape, host_rows, units, stream.subtask_names)
    self._examples: Iterator[StreamExample] = iter(())
    self._next_window = -1

  def _plan_window(self, number: int) -> Window:
    """Reads and packs one window of examples."""
    size = self._units * self._window_batches
    if number != self._next_window:
      self._examples = self.stream.open(number * size)
    self._next_window = number + 1
    found = list(itertools.islice(self._examples, size))
    if len(found) < size:
      raise UserError(
        f"the stream of {self.stream.name!r} ended after"
        f" {number * size + len(found)} examples; a stream must repeat"
        " without end."
      )
    arrays, subtask, place = _arrays(self.stream, found)
    inputs = np.array([len(example.inputs) for example in found], np.int64)
    targets = np.array([len(example.targets) for example in found], np.int64)
    if self.shape.pack:
      unit = np.arange(size)
      plan = packing_plans.plan_window(
        unit, inputs, targets, self.shape, self._window_batches
      )
    else:
      packing_plans.check_fits_row(
        int(inputs.max()),
        int(targets.max()),
        (self.shape.encoder_length, self.shape.decoder_length),
      )
      plan = packing_plans.plan_unpacked(size, self.shape)
    layout = Layout.of(subtask, place, plan.row, plan.rank, inputs, targets)
    return Window(arrays, layout, plan)
