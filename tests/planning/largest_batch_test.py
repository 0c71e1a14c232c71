"""The search for the largest batch, on devices of known appetite."""

import pytest

from dss_jax.planning import largest_batch

STATE = 2**20


def search(bytes_of, memory, *, first=32, unit=8, attempts=3):
  found = largest_batch.search(
    bytes_of,
    first=first,
    unit=unit,
    state=STATE,
    memory=memory,
    attempts=attempts,
  )
  assert len(found.tried) <= 1 + attempts
  assert all(rows % unit == 0 for rows in found.tried)
  if found.rows:
    assert found.rows in found.tried
    assert found.bytes == bytes_of(found.rows) <= memory
  return found


def line(rows):
  return STATE + 2**10 * rows


def test_what_grows_in_a_straight_line_is_found_at_once():
  found = search(line, 64 * 2**20)
  assert found.tried[0] == 32
  assert len(found.tried) == 2
  assert found.bytes > 0.94 * 64 * 2**20


def test_the_first_batch_may_be_too_large():
  found = search(line, 64 * 2**20, first=2**18)
  assert found.bytes > 0.94 * 64 * 2**20


def test_without_attempts_only_the_first_batch_is_compiled():
  assert search(line, 64 * 2**20, attempts=0).tried == (32,)


@pytest.mark.parametrize("mebibytes", [16, 32, 64, 128])
def test_a_batch_that_is_known_to_fit_is_never_lost(mebibytes):
  """Though sizes grow faster than any straight line."""

  def bytes_of(rows):
    return round(line(rows) * (1 + (rows / 60) ** 6))

  found = search(bytes_of, mebibytes * 2**20)
  assert found.rows >= 32


def test_a_batch_that_is_a_hair_too_large_is_followed_by_one_that_fits():
  """Large batches take a constant that small ones do not show."""
  limit = 2**30

  def bytes_of(rows):
    return round(line(rows) + 0.1 * limit * (rows > 32))

  found = search(bytes_of, limit)
  assert 0.9 * limit < found.bytes


def test_a_compiler_that_refuses_without_a_size_is_asked_for_less():
  limit = 2**30
  fits = 300_000

  def bytes_of(rows):
    return line(rows) if rows <= fits else limit + 1

  found = search(bytes_of, limit, attempts=6)
  assert 0.8 * fits < found.rows <= fits


def test_none_fits():
  found = search(lambda rows: 2**40, 2**30, attempts=2)
  assert found.rows == 0
  assert found.bytes == STATE


def test_where_the_state_does_not_fit_nothing_is_compiled():
  def bytes_of(rows):
    raise AssertionError

  found = search(bytes_of, STATE // 2)
  assert found == largest_batch.LargestBatch(0, STATE, ())


def test_units_that_leave_no_batch_between_end_the_search():
  """8 rows fit and 16 do not."""
  found = search(line, STATE + 2**10 * 12, first=16, attempts=9)
  assert found.rows == 8
  assert found.tried == (16, 8)
