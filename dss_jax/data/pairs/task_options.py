"""The options that registered SeqIO tasks read when their data is asked for.

A Task is registered when its module is imported, which is before a
configuration has been read, or in the middle of it. So a Task holds no option:
it calls `current()` each time somebody asks for its dataset. The command line
sets the provider once; a notebook, a T5X module or a test uses `using(...)` or
`set_provider`.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator

from dss_jax import datasets, vocabularies
from dss_jax.data.pairs import subtasks


@dataclasses.dataclass(frozen=True)
class TaskOptions:
  """All that a configuration can change about registered tasks.

  Attributes:
    data: where the data lies, splits, training fraction, parsers.
    method: prefixes, separators, rationale filter, rates.
    vocabulary: a vocabulary, or a name for `vocabularies.from_name`; None for
      the dataset's default.
  """

  data: datasets.DataOptions = dataclasses.field(
    default_factory=datasets.DataOptions
  )
  method: subtasks.MethodOptions = dataclasses.field(
    default_factory=subtasks.MethodOptions
  )
  vocabulary: str | vocabularies.Vocabulary | None = None

  def vocabulary_of(self, dataset: str) -> str | vocabularies.Vocabulary:
    """The vocabulary of a dataset, or its name; reads no file."""
    return self.vocabulary or vocabularies.default_name(dataset)


Provider = Callable[[], TaskOptions]

_provider: Provider = TaskOptions
_override: contextvars.ContextVar[TaskOptions | None] = contextvars.ContextVar(
  "dss_jax_task_options", default=None
)


def set_provider(provider: Provider) -> None:
  """Makes `provider()` the source of options for the whole process."""
  global _provider
  _provider = provider


def current() -> TaskOptions:
  """The options in force."""
  return _override.get() or _provider()


@contextlib.contextmanager
def using(options: TaskOptions) -> Iterator[TaskOptions]:
  """Puts `options` in force within a `with` block."""
  token = _override.set(options)
  try:
    yield options
  finally:
    _override.reset(token)
