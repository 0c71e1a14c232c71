"""Example sets of realistic lengths for the tests of batches."""

from collections.abc import Callable

import numpy as np
import pytest

from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


def _make_example_set(
  num_records: int = 300,
  *,
  paired: bool = False,
  rates: tuple[float, float] = (1.0, 1.0),
  without_rationale: int = 0,
  alternatives: int = 1,
  seed: int = 0,
) -> ExampleSet:
  """A label and a rationale sub-task of about a quarter of CQA's lengths.

  Args:
    num_records: records of the split.
    paired: keep a record's examples together.
    rates: of the two sub-tasks.
    without_rationale: the last so many records have no rationale.
    alternatives: rationales of each other record.
    seed: of the tokens. Every example's inputs and targets are distinct.
  """
  rng = np.random.default_rng(seed)

  def tokens(mean, deviation, least):
    n = max(least, int(rng.normal(mean, deviation)))
    return [*rng.integers(2, 30_000, n - 1).tolist(), 1]

  questions = [tokens(12, 3, 5) for _ in range(num_records)]
  label = TokenArrays.from_lists(
    "label",
    [[50, *question] for question in questions],
    [tokens(3, 1, 2) for _ in questions],
  )
  ids = np.repeat(np.arange(num_records - without_rationale), alternatives)
  rationale = TokenArrays.from_lists(
    "rationale",
    [[60, *questions[i]] for i in ids],
    [tokens(9, 2, 3) for _ in ids],
    ids,
    rng.choice([0.5, 1.0, 2.0], len(ids)),
  )
  return ExampleSet(
    subtasks=(label, rationale),
    rates=rates,
    paired=paired,
    num_records=num_records,
    fingerprint=f"toy-{num_records}-{seed}",
    vocabulary="toy",
    task_name="toy_dss_paired" if paired else "toy_dss",
    split="train",
  )


@pytest.fixture(scope="session")
def make_example_set() -> Callable[..., ExampleSet]:
  """The function that makes them."""
  return _make_example_set
