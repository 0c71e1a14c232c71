"""Files of the safetensors format: right ones read right, others refused."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.pretrained.files.safetensors_files import open_safetensors

ARRAYS = {
  "a": np.arange(12, dtype=np.float32).reshape(3, 4),
  "b.weight": np.arange(5, dtype=np.float16),
  "c": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
}


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


@pytest.fixture(scope="module")
def file_bytes(folders):
  return folders.safetensors_bytes(ARRAYS)


def _open(tmp_path, data):
  path = tmp_path / "model.safetensors"
  path.write_bytes(data)
  return open_safetensors(path)


def _refused(tmp_path, data, match="safetensors file .* cannot be read"):
  with pytest.raises(UserError, match=match) as error:
    _open(tmp_path, data)
  assert "\n" not in str(error.value)
  assert len(str(error.value)) < 1000


def _entry(**changes):
  entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
  return entry | changes


def test_arrays_and_their_parts(tmp_path, file_bytes):
  arrays = _open(tmp_path, file_bytes)
  assert set(arrays) == set(ARRAYS)
  for name, array in ARRAYS.items():
    assert arrays[name].dtype == array.dtype
    np.testing.assert_array_equal(arrays[name].whole(), array)
  part = arrays["a"].read((slice(1, 3), slice(0, 2)))
  np.testing.assert_array_equal(part, ARRAYS["a"][1:3, :2])


def test_the_librarys_own_files(tmp_path):
  safetensors = pytest.importorskip("safetensors.numpy")
  arrays = {"x": ARRAYS["a"], "scalar": np.array(2.5), "none": np.zeros((0, 3))}
  opened = _open(tmp_path, safetensors.save(arrays))
  for name, array in arrays.items():
    np.testing.assert_array_equal(opened[name].whole(), array)


@pytest.mark.parametrize(
  ("header", "data"),
  [
    (b"", b""),
    (b"{", b""),
    (b"[]", b""),
    (b"{}", b"x"),
    (b"\xff" * 10, b""),
    (b"[" * 200_000, b""),
    (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b""),
    (json.dumps({"a": 3}).encode(), b""),
    (json.dumps({"a": _entry(dtype="F8")}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(dtype=["F32"])}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(shape=[2, 4])}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(shape=[-2, -3])}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(shape=[2.0, 3])}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(shape=[6] + [1] * 40)}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(shape=[2**62, 2**62])}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(shape=None)}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(data_offsets=[4, 28])}).encode(), b"\0" * 28),
    (json.dumps({"a": _entry(data_offsets=[-24, 0])}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(data_offsets=[0])}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry(), "b": _entry()}).encode(), b"\0" * 24),
    (json.dumps({"a": _entry()}).encode(), b"\0" * 23),
    (json.dumps({"a": _entry()}).encode(), b"\0" * 25),
    (b'{"a": {"shape": [' + b"9" * 5000 + b"]}}", b""),
    (json.dumps({f"{i}": EMPTY for i in range(100_001)}).encode(), b""),
    (b'{"a": "' + b"a" * 2**25 + b'"}', b""),
  ],
)
def test_hostile_headers(tmp_path, folders, header, data):
  _refused(tmp_path, folders.with_header(header, data))


@pytest.mark.parametrize("length", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_headers_that_claim_another_length(tmp_path, length):
  _refused(tmp_path, struct.pack("<Q", length) + b"{}")


def test_files_cut_short_anywhere(tmp_path, file_bytes):
  for length in range(len(file_bytes)):
    _refused(tmp_path, file_bytes[:length])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_flipped_bits_are_refused_or_change_numbers_only(
  tmp_path_factory, folders, data
):
  original = folders.safetensors_bytes(ARRAYS)
  position = data.draw(st.integers(0, len(original) - 1))
  bit = data.draw(st.integers(0, 7))
  changed = bytearray(original)
  changed[position] ^= 1 << bit
  folder = tmp_path_factory.getbasetemp()
  try:
    arrays = _open(folder, bytes(changed))
  except UserError:
    return
  for array in arrays.values():
    assert array.whole().shape == array.shape
