"""Arithmetic that models write."""

from __future__ import annotations

from dss_jax.datasets import arithmetic
from dss_jax.rationales import completion_parsing
from fuzz.targets import Target, text_of


def _parse(data: bytes) -> None:
  text = text_of(data)
  value = arithmetic.value(text)
  spelled = arithmetic.normalize(text)
  if spelled is not None:
    assert arithmetic.value(spelled) == value, spelled
    assert arithmetic.normalize(spelled) == spelled, spelled
  same = completion_parsing.same_answer("number", text, text)
  assert same or value is None


def _seeds() -> list[bytes]:
  return [
    b"( 84.0 / 2.0 )",
    b"((3 + 4) * -2 - 10 / 4)",
    b"9007199254740993 * .5",
    b"-(-(-(1)))",
    b"$1,250.50",
  ]


TARGETS = {
  "arithmetic": Target(
    _parse, _seeds, ("**", "//", "e9", "0x", "_", "((", "--"), (), 512
  )
}
