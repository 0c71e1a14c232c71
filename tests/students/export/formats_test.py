"""Options of an export, and the formats that have them."""

import pytest

from dss_jax.base.errors import UserError
from dss_jax.students.export.formats import ExportOptions


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("quantization", "int4", "it must be one of float32, int8"),
    ("t5x_layout", "zarr", "it must be one of legacy, orbax"),
    ("num_beams", 0, "num_beams is 0; it must be 1 or more"),
  ],
)
def test_values_that_no_format_has_are_refused(field, value, message):
  with pytest.raises(UserError, match=message) as error:
    ExportOptions(**{field: value})
  assert error.value.fields == (f"ExportOptions.{field}",)


@pytest.mark.parametrize(
  ("field", "value", "owner"),
  [
    ("quantization", "int8", "ctranslate2"),
    ("t5x_layout", "orbax", "t5x"),
    ("num_beams", 4, "stablehlo"),
  ],
)
def test_an_option_belongs_to_one_format(field, value, owner):
  options = ExportOptions(**{field: value})
  options.check_format(owner)
  with pytest.raises(UserError, match=f"belongs to the format {owner}"):
    options.check_format("huggingface")
  ExportOptions().check_format("huggingface")
