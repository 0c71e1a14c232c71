"""Reading a Task of SeqIO, with one-line errors."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax.base.errors import UserError
from dss_jax.data.tokens import examples

# The accelerator is JAX's; TensorFlow only reads data, and would take most of
# its memory at the first operation. Too late if another project has used it.
with contextlib.suppress(RuntimeError):
  tf.config.set_visible_devices([], "GPU")


def read_task(
  task: seqio.Task,
  split: str,
  feature_lengths: Mapping[str, int],
  *,
  use_cached: bool,
  shuffle: bool = False,
  seed: int = 0,
  num_epochs: int | None = 1,
) -> tf.data.Dataset:
  """A Task's dataset; fails with one line."""
  for name in examples.FEATURES:
    if name not in task.output_features:
      raise UserError(
        f"Task {task.name!r} has no feature {name!r}; an encoder-decoder"
        " student needs Tasks with 'inputs' and 'targets'."
      )
  with one_line_errors(task.name):
    return task.get_dataset(
      dict(feature_lengths) or None,
      split=split,
      use_cached=use_cached,
      shuffle=shuffle,
      seed=seed if _takes_seed(task, use_cached) else None,
      num_epochs=num_epochs,
    )


def _takes_seed(task: seqio.Task, use_cached: bool) -> bool:
  """Whether SeqIO lets this Task's source be read with a seed."""
  source = task.source
  if use_cached or not isinstance(source, seqio.FunctionDataSource):
    return True
  return "seed" in inspect.signature(source._dataset_fn).parameters


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
  """Turns what TensorFlow and SeqIO raise about data into a UserError."""
  try:
    yield
  except UserError:
    raise
  except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(
      f"the data of Task {name!r} cannot be read: {lines[0]}"
    ) from error


def iter_examples(
  dataset: tf.data.Dataset, name: str
) -> Iterator[Mapping[str, Any]]:
  with one_line_errors(name):
    examples_read: Any = dataset.as_numpy_iterator()
    yield from examples_read


def token_ids(value: np.ndarray, task: seqio.Task) -> np.ndarray:
  if value.ndim != 1 or not np.issubdtype(value.dtype, np.integer):
    raise UserError(
      f"Task {task.name!r} gives {value.dtype} features of {value.ndim}"
      " dimensions; token ids of 1 dimension are needed."
    )
  return value.astype(np.int32)


def add_cache_dirs(folders: Sequence[str]) -> None:
  """Tells SeqIO where offline caches of Tasks lie."""
  seqio.add_global_cache_dirs(list(folders))
