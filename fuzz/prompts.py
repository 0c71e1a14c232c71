"""TOML files of the user: prompts, prices and teachers."""

from __future__ import annotations

from collections.abc import Callable

from dss_jax.rationales import prices, prompt_files, teacher_tables
from fuzz.targets import Target, scratch

_TEACHERS = b"""[[teacher]]
model = "m"
base_url = "http://127.0.0.1:1/v1"
samples = 2
temperature = 0.5
stop = ["\\n"]
header = ["A: b"]
extra_body = { top_k = 3 }
"""
_PRICES = b"""[models."m*"]
prompt = 0.5
completion = 1
cached = 0.1
batch = 0.5
"""


def _file(read: Callable[[str], object], name: str) -> Callable[[bytes], None]:
  def parse(data: bytes) -> None:
    path = scratch(name)
    path.write_bytes(data)
    read(str(path))

  return parse


def _shipped() -> list[bytes]:
  return [
    (prompt_files.FOLDER / f"{name}.toml").read_bytes()
    for name in prompt_files.names()
  ]


TARGETS = {
  "prompt": Target(
    _file(prompt_files.load, "prompt.toml"),
    _shipped,
    (
      "[[exemplars]]",
      "input_format",
      "output_format",
      'answer_kind = "choice"',
      'answer_format = "json"',
      "{rationale}",
      "{answer}",
      "{choices}",
      "a.b.c.d",
      '"""',
    ),
    max_bytes=1 << 14,
  ),
  "prices": Target(
    _file(prices.Prices.load, "prices.toml"), lambda: [_PRICES], ("inf", "nan")
  ),
  "teachers": Target(
    _file(teacher_tables.read_tables, "teachers.toml"), lambda: [_TEACHERS]
  ),
}
