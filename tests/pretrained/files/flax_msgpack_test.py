"""Flax's msgpack format: trees with arrays that are read by parts."""

import struct
import tracemalloc

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.pretrained import open_pretrained
from dss_jax.pretrained.files import flax_msgpack, lazy_arrays
from dss_jax.pretrained.files.flax_msgpack import MalformedError

TREE = {
  "encoder": {
    "kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scale": np.arange(3, dtype=np.float32).astype(ml_dtypes.bfloat16),
  },
  "step": np.int32(7),
}


def _read(tmp_path, data):
  path = tmp_path / "tree.msgpack"
  path.write_bytes(data)
  return flax_msgpack.read_tree(path)


def _flax_bytes(tree):
  from flax import serialization

  return serialization.msgpack_serialize(tree)


def test_trees_that_flax_writes(tmp_path):
  tree = _read(tmp_path, _flax_bytes(TREE))
  kernel = tree["encoder"]["kernel"]
  np.testing.assert_array_equal(kernel.whole(), TREE["encoder"]["kernel"])
  np.testing.assert_array_equal(
    kernel.read((slice(1, 2), slice(2, 4))), [[6.0, 7.0]]
  )
  assert tree["encoder"]["scale"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(
    tree["encoder"]["scale"].whole(), TREE["encoder"]["scale"]
  )
  assert tree["step"].whole() == 7


def test_arrays_that_flax_cuts_into_pieces(tmp_path, monkeypatch):
  from flax import serialization

  monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 20)
  array = np.arange(21, dtype=np.float32).reshape(7, 3)
  tree = _read(tmp_path, _flax_bytes({"table": array}))
  np.testing.assert_array_equal(tree["table"].whole(), array)
  np.testing.assert_array_equal(
    tree["table"].read((slice(5, 7), slice(0, 1))), array[5:7, :1]
  )


def test_a_hugging_face_folder_of_flax(tmp_path, folders):
  weights = folders.random_weights()
  tree = {}
  for name, array in weights.items():
    *parents, last = name.split(".")
    if "embed" in name or "shared" in name or "relative" in name:
      last = "embedding"
    elif array.ndim == 2:
      last, array = "kernel", np.ascontiguousarray(array.T)
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = array
  folder = folders.write(tmp_path / "x", weights)
  (folder / "model.safetensors").rename(tmp_path / "y")
  (folder / "flax_model.msgpack").write_bytes(_flax_bytes(tree))
  opened = open_pretrained(str(folder))
  assert opened.config == folders.CONFIG
  name = "decoder/layers_1/encoder_decoder_attention/key/kernel"
  theirs = "decoder.block.1.layer.1.EncDecAttention.k.weight"
  np.testing.assert_array_equal(opened.arrays[name].whole(), weights[theirs].T)
  (folder / "flax_model.msgpack").write_bytes(_flax_bytes(tree)[:-1])
  with pytest.raises(UserError, match=r"Flax file .* cannot be read: it ends"):
    open_pretrained(str(folder))


def _nested(depth):
  return b"\x81\xa1a" * depth + b"\x01"


def _array(*description):
  return msgpack.packb(
    {"a": msgpack.ExtType(1, msgpack.packb(list(description)))}
  )


def _map_of(count):
  names = (b"%07d" % i for i in range(count))
  entries = (b"\xa7" + name + b"\1" for name in names)
  return b"\xdf" + struct.pack(">I", count) + b"".join(entries)


@pytest.mark.parametrize(
  ("data", "match"),
  [
    (b"", "empty"),
    (b"\xc1", "no msgpack: FormatError"),
    (b"\x81", "too early"),
    (b"\xdf\xff\xff\xff\xff", "too early"),
    (b"\xdd\xff\xff\xff\xff" + b"\0" * 9, "exceeds max_array_len"),
    (b"\xdf\0\0\xff\xff", "too early"),
    (b"\xdb\0\0\xff\xff" + b"a" * 2**16, "more than 4096 bytes"),
    (
      b"\x93" + b"\xd9\xff" + b"a" * 255 + b"\xda\x0f\xf0" + b"a" * 5000,
      "more than",
    ),
    (b"\xc6\xff\xff\xff\xff", "too early"),
    (_nested(100), "too deep"),
    (_nested(100_000), "too deep"),
    (b"\x91" * 100_000, "no msgpack: "),
    (b"\xdd" + struct.pack(">I", 2_000_000) + b"\0" * 2_000_000, "exceeds"),
    (_map_of(500_001), "too large"),
    (msgpack.packb([msgpack.ExtType(1, b"x")]), "in a list"),
    (b"\x01\x02", "after its end"),
    (b"\x81\x01\x02", "is no key"),
    (b"\x82\xa1a\x01\xa1a\x02", "is no key"),
    (b"\x81\xa1\xff\x01", "not UTF-8"),
    (msgpack.packb({"a": msgpack.ExtType(7, b"x")}), "extension 7"),
    (msgpack.packb({"a": msgpack.ExtType(1, b"")}), "too early"),
    (_array([3], "object", b""), "dtype 'object'"),
    (_array([3], "float32", b""), "another size"),
    (_array([2**40, 2**40], "float32", b"1234"), "another size"),
    (_array([-1], "float32", b"1234"), "has shape"),
    (_array("x", "float32", b"1234"), "has shape x"),
    (_array([1], "float32"), "not described"),
    (
      msgpack.packb({"__msgpack_chunked_array__": True, "shape": {"0": 2**40}}),
      "not whole",
    ),
  ],
)
def test_hostile_bytes(tmp_path, data, match):
  with pytest.raises(MalformedError, match=match):
    _read(tmp_path, data)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_are_refused_or_change_values_only(
  tmp_path_factory, data
):
  changed = bytearray(_flax_bytes(TREE))
  position = data.draw(st.integers(0, len(changed) - 1))
  changed[position] ^= 1 << data.draw(st.integers(0, 7))
  length = data.draw(st.integers(len(changed) // 2, len(changed)))
  try:
    tree = _read(tmp_path_factory.getbasetemp(), bytes(changed[:length]))
  except MalformedError:
    return
  waiting = [tree]
  while waiting:
    node = waiting.pop()
    if isinstance(node, lazy_arrays.LazyArray):
      assert node.whole().shape == node.shape
    elif isinstance(node, dict):
      waiting += node.values()


def test_an_extension_that_is_mostly_header_takes_no_memory(tmp_path):
  """What stands between a dtype and its numbers is not copied to be refused."""
  length = 2**26
  described = b"\x93\x91\x00\xa7float32"  # shape [0], so no numbers at all
  path = tmp_path / "tree.msgpack"
  with open(path, "wb") as file:
    file.write(b"\x81\xa1a\xc9" + struct.pack(">I", length) + b"\x01")
    file.write(described)
    file.truncate(file.tell() - len(described) + length)
  tracemalloc.start()
  try:
    with pytest.raises(MalformedError, match="another size than its shape"):
      flax_msgpack.read_tree(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
  finally:
    tracemalloc.stop()
