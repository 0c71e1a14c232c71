"""The formats a student can be exported in, and the packages they need.

Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pathlib
from typing import TYPE_CHECKING, Protocol

from dss_jax.base import checks
from dss_jax.base.errors import UserError

if TYPE_CHECKING:
  from dss_jax.students.export.answer_checks import Answer
  from dss_jax.students.student import Student

FORMATS = {
  "huggingface": "transformers' T5 (safetensors)",
  "peft": "adapters (LoRA) for PEFT",
  "t5x": "a T5X checkpoint",
  "stablehlo": "StableHLO (jax.export)",
  "ctranslate2": "CTranslate2",
  "onnx": "ONNX",
}
QUANTIZATIONS = ("float32", "int8")
LAYOUTS = ("legacy", "orbax")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """What there is to choose within a format.

  Attributes:
    quantization: type of the weights: float32, or int8 (ctranslate2 only).
    t5x_layout: layout of a T5X checkpoint: legacy (msgpack and zarr, which all
      of T5X's tools read) or orbax.
    num_beams: width of the beam search in the exported program (stablehlo
      only); 1 is greedy.
  """

  quantization: str = "float32"
  t5x_layout: str = "legacy"
  num_beams: int = 1

  def __post_init__(self):
    checks.one_of(
      "ExportOptions.quantization", self.quantization, QUANTIZATIONS
    )
    checks.one_of("ExportOptions.t5x_layout", self.t5x_layout, LAYOUTS)
    checks.in_range("ExportOptions.num_beams", self.num_beams, 1)

  def check_format(self, name: str) -> None:
    """Raises UserError for a value that a format does not have."""
    for field, owner in (
      ("quantization", "ctranslate2"),
      ("t5x_layout", "t5x"),
      ("num_beams", "stablehlo"),
    ):
      value = getattr(self, field)
      if value != getattr(ExportOptions, field) and name != owner:
        raise UserError(
          f"{field} is {value}, which the format {name} does not have; it"
          f" belongs to the format {owner}",
          fields=(f"ExportOptions.{field}", "format"),
        )


class Format(Protocol):
  """What the module of a format offers.

  Attributes:
    PACKAGES: packages that writing needs.
    CHECK_PACKAGES: further packages that the check needs.
    HAS_TOKENIZER: whether there are files that AutoTokenizer reads.
    OWN_DTYPE: whether the result computes in the student's dtype, instead of
      float32.
  """

  PACKAGES: tuple[str, ...]
  CHECK_PACKAGES: tuple[str, ...]
  HAS_TOKENIZER: bool
  OWN_DTYPE: bool

  def write(
    self, student: Student, folder: pathlib.Path, options: ExportOptions
  ) -> None:
    """Writes all files but dss_jax.json and README.md."""
    ...

  def answers(
    self, student: Student, folder: pathlib.Path, options: ExportOptions
  ) -> Answer:
    """Returns a function that answers with what lies in the folder."""
    ...

  def usage(self, student: Student, options: ExportOptions) -> str:
    """How to use the folder, in Markdown."""
    ...


def get(name: str, *, checked: bool) -> Format:
  """The module of a format.

  Args:
    name: a key of FORMATS.
    checked: whether the result is to be checked.

  Raises:
    UserError: naming the packages that are not installed.
  """
  module: Format = importlib.import_module(f"dss_jax.students.export.{name}")  # type: ignore[assignment]
  missing = _missing(module.PACKAGES)
  if missing:
    raise UserError(
      f"the format {name} needs {', '.join(missing)}: pip install"
      " 'dss_jax[export]'",
      fields="format",
    )
  missing = _missing(module.CHECK_PACKAGES) if checked else []
  if missing:
    raise UserError(
      f"the format {name} is checked with {', '.join(missing)}: pip install"
      " 'dss_jax[export]', or set check to 0 to do without the check",
      fields=("format", "check"),
    )
  return module


def _missing(packages: tuple[str, ...]) -> list[str]:
  return [name for name in packages if importlib.util.find_spec(name) is None]
