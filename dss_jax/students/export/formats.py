"""The formats a student can be exported in, and what each of them needs."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pathlib
from typing import TYPE_CHECKING, Protocol

from dss_jax.base.errors import UserError

if TYPE_CHECKING:
  from dss_jax.students.export import checks
  from dss_jax.students.student import Student

FORMATS = {
  "huggingface": "transformers' T5 (safetensors)",
  "t5x": "a T5X checkpoint",
  "stablehlo": "StableHLO (jax.export)",
  "ctranslate2": "CTranslate2",
  "onnx": "ONNX",
}
QUANTIZATIONS = ("float32", "int8")
LAYOUTS = ("legacy", "orbax")


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags say beyond the format.

  Attributes:
    quantization: of the weights; int8 for ctranslate2 only.
    layout: of a T5X checkpoint.
    num_beams: width of the exported program's beam search; 1 is greedy
      (stablehlo only).
  """

  quantization: str = "float32"
  layout: str = "legacy"
  num_beams: int = 1


class Format(Protocol):
  """What a module of this package offers."""

  PACKAGES: tuple[str, ...]  # to write it
  CHECK_PACKAGES: tuple[str, ...]  # to check it as well
  HAS_TOKENIZER: bool  # files that AutoTokenizer reads
  OWN_DTYPE: bool  # computes in the student's dtype, not in float32

  def write(
    self, student: Student, folder: pathlib.Path, options: Options
  ) -> None:
    """Writes all files but dss_jax.json and README.md."""
    ...

  def answers(
    self, student: Student, folder: pathlib.Path, options: Options
  ) -> checks.Answer:
    """Answers with what lies in the folder."""
    ...

  def usage(self, student: Student, options: Options) -> str:
    """How to use the folder, in Markdown."""
    ...


def get(name: str, *, checked: bool) -> Format:
  """The module of a format.

  Args:
    name: of FORMATS.
    checked: whether the result is to be checked.

  Raises:
    UserError: naming the packages that are not installed.
  """
  module: Format = importlib.import_module(f"dss_jax.students.export.{name}")  # type: ignore[assignment]
  missing = _missing(module.PACKAGES)
  if missing:
    raise UserError(
      f"--format={name} needs {', '.join(missing)}: pip install"
      " 'dss_jax[export]'"
    )
  missing = _missing(module.CHECK_PACKAGES) if checked else []
  if missing:
    raise UserError(
      f"--format={name} is checked with {', '.join(missing)}: pip install"
      " 'dss_jax[export]', or set --check=0 to do without the check"
    )
  return module


def _missing(packages: tuple[str, ...]) -> list[str]:
  return [name for name in packages if importlib.util.find_spec(name) is None]
