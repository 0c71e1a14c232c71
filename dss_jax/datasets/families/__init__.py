"""Families of generated datasets: where rationales help, and where not.

Each family is a procedural dataset whose records, splits and controls come from
the one generator in `generator.py`. They differ in *why* the label follows from
the input, which is what decides whether a rationale can teach a student more
than the label does.
"""

from dss_jax.datasets.families.generator import (
  Family,
  Question,
  generate,
  load,
  split_of,
)
from dss_jax.datasets.families.questions import FAMILIES

__all__ = [
  "FAMILIES",
  "Family",
  "Question",
  "generate",
  "load",
  "split_of",
]
