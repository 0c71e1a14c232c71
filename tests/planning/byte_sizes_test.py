"""Sizes as people write them."""

import pytest

from dss_jax.base.errors import UserError
from dss_jax.planning import byte_sizes


@pytest.mark.parametrize(
  ("text", "size"),
  [
    ("80GiB", 80 * 2**30),
    ("80 gb", 80 * 10**9),
    ("1.5G", 3 * 2**29),
    ("4096", 4096),
    ("512MiB", 512 * 2**20),
    ("7b", 7),
  ],
)
def test_units(text, size):
  assert byte_sizes.parse(text, "plan_memory") == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1XB", "0", "1e40TB"])
def test_others_are_refused(text):
  with pytest.raises(UserError, match=r"plan_memory is .*such as 80GiB"):
    byte_sizes.parse(text, "plan_memory")


def test_shown():
  assert byte_sizes.shown(1023) == "1023 B"
  assert byte_sizes.shown(1536) == "1.5 KiB"
  assert byte_sizes.shown(80 * 2**30) == "80.0 GiB"
  assert byte_sizes.shown(3 * 2**50) == "3,072.0 TiB"
