"""T5X's checkpoints: both formats read right, hostile ones refused."""

import gzip
import itertools
import json

import jax
import ml_dtypes
import msgpack
import numpy as np
import pyarrow as pa
import pytest

from dss_jax.base.errors import UserError
from dss_jax.pretrained import opening
from dss_jax.pretrained.t5x_checkpoints import load_t5x, open_t5x

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(5, 7)).astype(np.float32)
SCALE = RNG.normal(size=(7,)).astype(ml_dtypes.bfloat16)
ROW = RNG.normal(size=(5,)).astype(np.float32)


# ------------------------------------------------------------ writing, as T5X


def _inline(array):
  """An array as Flax's msgpack writes it."""
  content = (array.shape, array.dtype.name, array.tobytes())
  return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))


def _reference(name, driver="zarr"):
  kvstore = {"driver": "file", "path": f"{name}/"}
  return {"driver": driver, "dtype": "float32", "kvstore": kvstore}


def _write_zarr(folder, array, chunks, compressor="gzip", changes=()):
  folder.mkdir(parents=True)
  dtype = array.dtype.str if array.dtype.kind == "f" else array.dtype.name
  header = {
    "chunks": chunks,
    "compressor": compressor and {"id": compressor, "level": 1},
    "dimension_separator": ".",
    "dtype": dtype,
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": array.shape,
    "zarr_format": 2,
  }
  header.update(changes)
  (folder / ".zarray").write_text(json.dumps(header))
  for index in np.ndindex(*(-(-n // c) for n, c in zip(array.shape, chunks))):
    where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks))
    block = np.zeros(chunks, array.dtype)
    part = array[where]
    block[tuple(slice(0, n) for n in part.shape)] = part
    data = block.tobytes()
    if compressor:
      data = gzip.compress(data)
    (folder / ".".join(map(str, index))).write_bytes(data)


def _legacy(folder, target=None, state=None):
  """A legacy checkpoint; by default all in order."""
  checkpoint = folder / "checkpoint_12"
  checkpoint.mkdir(parents=True)
  name = "target.decoder.layers_0.mlp.wo.kernel"
  if target is None:
    target = {
      "decoder": {
        "layers_0": {"mlp": {"wo": {"kernel": _reference(name)}}},
        "decoder_norm": {"scale": _inline(SCALE)},
      }
    }
  if state is None:
    state = {
      "step": _inline(np.array(12, np.int32)),
      "param_states": {"decoder": {"v_row": _inline(ROW)}},
    }
  optimizer = {"target": target, "state": state}
  packed = msgpack.packb({"version": 3, "optimizer": optimizer})
  (checkpoint / "checkpoint").write_bytes(packed)
  return checkpoint, checkpoint / name


def _assert_right(params, optimizer_state, step):
  kernel = params["decoder"]["layers_0"]["mlp"]["wo"]["kernel"]
  np.testing.assert_array_equal(kernel, KERNEL)
  scale = params["decoder"]["decoder_norm"]["scale"]
  assert scale.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(scale, SCALE)
  np.testing.assert_array_equal(optimizer_state["decoder"]["v_row"], ROW)
  assert step == 12


# --------------------------------------------------------------------- reading


@pytest.mark.parametrize("compressor", ["gzip", None])
@pytest.mark.parametrize("chunks", [[5, 7], [2, 3]])
def test_legacy_checkpoints(tmp_path, compressor, chunks):
  checkpoint, array_folder = _legacy(tmp_path)
  _write_zarr(array_folder, KERNEL, chunks, compressor)
  _assert_right(*load_t5x(checkpoint))
  # The folder above works too, and the latest checkpoint in it counts.
  older, _ = _legacy(tmp_path / "older")
  older.rename(tmp_path / "checkpoint_9")
  _assert_right(*load_t5x(tmp_path))


def _orbax(folder, arrays, *, ocdbt, compressor="zstd"):
  """A checkpoint as Orbax writes it; returns its folder of arrays."""
  import tensorstore as ts

  state = folder / "checkpoint_12" / "state"
  state.mkdir(parents=True)
  for name, array in arrays.items():
    kvstore = {"driver": "file", "path": f"{state}/{name}/"}
    if ocdbt:
      base = {"driver": "file", "path": f"{state}/"}
      kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    spec = {
      "driver": "zarr",
      "kvstore": kvstore,
      "metadata": {"compressor": {"id": compressor}},
    }
    store = ts.open(
      spec, create=True, dtype=array.dtype.name, shape=array.shape
    ).result()
    store.write(array).result()
  return state


ORBAX = {
  "target.decoder.layers_0.mlp.wo.kernel": KERNEL,
  "target.decoder.decoder_norm.scale": SCALE,
  "state.param_states.decoder.v_row": ROW,
  "state.step": np.array(12, np.int32),
}


@pytest.mark.parametrize("compressor", ["zstd", "gzip", "zlib"])
def test_compressors_of_orbax(tmp_path, compressor):
  state = _orbax(tmp_path, ORBAX, ocdbt=False, compressor=compressor)
  _assert_right(*load_t5x(tmp_path))
  # A chunk of another array: whole, but not as long as this one's.
  chunk = state / "target.decoder.layers_0.mlp.wo.kernel" / "0.0"
  data = (state / "state.param_states.decoder.v_row" / "0").read_bytes()
  chunk.write_bytes(data)
  _refused(tmp_path, "is not 140 bytes long")


def test_chunks_that_would_unpack_to_more_than_the_array(tmp_path):
  state = _orbax(tmp_path, ORBAX, ocdbt=False)
  bomb = pa.compress(b"\0" * 2**24, codec="zstd", asbytes=True)
  assert len(bomb) < 4096
  chunk = state / "target.decoder.layers_0.mlp.wo.kernel" / "0.0"
  chunk.write_bytes(bomb)
  _refused(tmp_path, "is not 140 bytes long")


def test_any_part_of_chunks_in_either_order(tmp_path):
  """All parts of a matrix in 2 x 3 chunks, against NumPy's own slices."""
  checkpoint, array_folder = _legacy(tmp_path)
  _write_zarr(array_folder, KERNEL, [2, 3], changes={"order": "F"})
  for file in array_folder.glob("*.*"):
    if file.name != ".zarray":
      block = np.frombuffer(gzip.decompress(file.read_bytes()), KERNEL.dtype)
      column_wise = block.reshape(2, 3).tobytes(order="F")
      file.write_bytes(gzip.compress(column_wise))
  (array,) = (
    array
    for name, array in open_t5x(checkpoint).params.items()
    if name.endswith("kernel")
  )
  rows, columns = KERNEL.shape
  for top, bottom in itertools.combinations(range(rows + 1), 2):
    for left, right in itertools.combinations(range(columns + 1), 2):
      part = (slice(top, bottom), slice(left, right))
      np.testing.assert_array_equal(array.read(part), KERNEL[part])


@pytest.mark.parametrize("ocdbt", [True, False])
def test_orbax_checkpoints(tmp_path, ocdbt):
  state = _orbax(tmp_path, ORBAX, ocdbt=ocdbt)
  _assert_right(*load_t5x(tmp_path / "checkpoint_12"))
  _refused(tmp_path / "checkpoint_12", "max_bytes", max_bytes=100)
  if ocdbt:
    (state / "manifest.ocdbt").write_bytes(b"junk")
    _refused(tmp_path / "checkpoint_12", "cannot be read")


def test_a_lost_file_is_not_read_as_zeros(tmp_path):
  state = _orbax(tmp_path, ORBAX, ocdbt=False)
  (state / "target.decoder.decoder_norm.scale" / "0").unlink()
  _refused(tmp_path, r"scale lacks its chunk '0'")


def test_names_of_endless_trees(tmp_path):
  name = f"target.{'a.' * 2000}x"
  _orbax(tmp_path, ORBAX | {name: SCALE}, ocdbt=True)
  _refused(tmp_path, "no plain array")


def test_an_array_with_arrays_below_it(tmp_path):
  _orbax(tmp_path, ORBAX | {"target.decoder": SCALE}, ocdbt=True)
  _refused(tmp_path, r"target\.decoder is an array and has arrays below it")


def test_no_optimizer_state_is_none(tmp_path):
  state = {"step": _inline(np.array(3, np.int32)), "param_states": {}}
  checkpoint, array_folder = _legacy(tmp_path, state=state)
  _write_zarr(array_folder, KERNEL, [5, 7])
  _, optimizer_state, step = load_t5x(checkpoint)
  assert optimizer_state is None
  assert step == 3


@pytest.mark.shared
def test_t5x_own_checkpoints_agree_and_have_every_leaf(shared_data):
  folder = shared_data / "t5x_tiny"
  orbax = load_t5x(folder / "orbax" / "checkpoint_3")
  legacy = load_t5x(folder / "legacy")
  assert orbax[2] == legacy[2] == 3
  jax.tree.map(np.testing.assert_array_equal, orbax[:2], legacy[:2])
  listed = json.loads((folder / "tree.json").read_text())["param_tree_shapes"]
  found = {"state/step": [[], "int32"]}
  for prefix, tree in (("target", orbax[0]), ("state/param_states", orbax[1])):
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      found[f"{prefix}/{name}"] = [list(leaf.shape), str(leaf.dtype)]
  assert found == listed


# -------------------------------------------------------------------- refusing


def _refused(path, match, **options):
  with pytest.raises(UserError, match=match) as error:
    load_t5x(path, **options)
  message = str(error.value)
  assert error.value.fields == ("TrainConfig.initial_checkpoint_path",)
  assert "\n" not in message
  assert len(message) < 500


def test_no_checkpoint(tmp_path):
  _refused(tmp_path, "is no T5X checkpoint")
  _refused(tmp_path / "absent", "is no T5X checkpoint")
  (tmp_path / "checkpoint_1" / "state").mkdir(parents=True)
  _refused(tmp_path, "no zarr arrays")


@pytest.mark.parametrize(
  "name",
  ["../../secret", "/etc", "..", "", ".hidden", "a\x00b", "sub/../../secret"],
)
def test_paths_out_of_the_folder(tmp_path, name):
  _write_zarr(tmp_path / "secret", KERNEL, [5, 7])
  checkpoint, _ = _legacy(tmp_path, target={"kernel": _reference(name)})
  _refused(checkpoint, "has no plain array")


def test_links_out_of_the_folder(tmp_path):
  _write_zarr(tmp_path / "secret", KERNEL, [5, 7])
  checkpoint, array_folder = _legacy(tmp_path)
  array_folder.symlink_to(tmp_path / "secret")
  _refused(checkpoint, "leads out of it")
  array_folder.unlink()
  _write_zarr(array_folder, KERNEL, [5, 7])
  (array_folder / "0.0").unlink()
  (array_folder / "0.0").symlink_to(tmp_path / "secret" / "0.0")
  _refused(checkpoint, "leads out of it")


@pytest.mark.parametrize("ocdbt", [True, False])
def test_links_out_of_orbax_stores(tmp_path, ocdbt):
  state = _orbax(tmp_path, ORBAX, ocdbt=ocdbt)
  files = [file for file in state.rglob("*") if file.is_file()]
  file = max(files, key=lambda file: file.stat().st_size)
  file.rename(tmp_path / "secret")
  file.symlink_to(tmp_path / "secret")
  _refused(tmp_path, "leads out of it")


def test_missing_and_damaged_chunks(tmp_path):
  checkpoint, array_folder = _legacy(tmp_path)
  _write_zarr(array_folder, KERNEL, [2, 3])
  chunk = array_folder / "1.2"
  data = chunk.read_bytes()
  chunk.write_bytes(data[:10])
  _refused(checkpoint, r"chunk 'target.*/1\.2': Truncated")
  chunk.write_bytes(b"junk")
  _refused(checkpoint, r"chunk 'target.*/1\.2'")
  chunk.unlink()
  _refused(checkpoint, r"lacks its chunk '1\.2'")


def test_chunks_larger_than_declared_are_not_unpacked(tmp_path):
  checkpoint, array_folder = _legacy(tmp_path)
  _write_zarr(array_folder, KERNEL, [5, 7])
  # A bomb: 64 MiB in 64 KiB.
  (array_folder / "0.0").write_bytes(gzip.compress(b"\0" * 2**26))
  _refused(checkpoint, "is larger than declared")
  # A smaller one, within what incompressible data may take.
  (array_folder / "0.0").write_bytes(gzip.compress(b"\0" * 2**21))
  _refused(checkpoint, "is not 140 bytes long")


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"shape": [2**40, 2**40]}, "exceed max_bytes"),
    ({"shape": [5, -7]}, "has shape"),
    ({"shape": [5, 7.5]}, "has shape"),
    ({"shape": "57"}, "not zarr 2"),
    ({"chunks": [2**40, 2**40]}, "exceed max_bytes"),
    ({"chunks": [5, 0]}, "has chunks"),
    ({"chunks": [5]}, "has chunks"),
    ({"chunks": [2**13, 2**13]}, "chunks larger than itself"),
    ({"chunks": ["x"] * 10_000}, "has chunks"),
    ({"dtype": "|O"}, "dtype"),
    ({"chunks": [1, 1], "shape": [2**16, 2**15]}, "most of its chunks"),
    ({"compressor": {"id": "blosc"}}, "by 'blosc'; they must be by gzip, zlib"),
    ({"compressor": {"id": [3]}}, r"by \[3\]; they must be by gzip, zlib"),
    ({"compressor": {}}, "by None; they must be by gzip, zlib, zstd or not at"),
    ({"compressor": "gzip"}, "not zarr 2"),
    ({"filters": [{"id": "pickle"}]}, "not zarr 2"),
    ({"zarr_format": 3}, "not zarr 2"),
    ({"order": "K"}, "not zarr 2"),
    ({"dimension_separator": "/../"}, "separator"),
  ],
)
def test_hostile_headers(tmp_path, changes, match):
  checkpoint, array_folder = _legacy(tmp_path)
  _write_zarr(array_folder, KERNEL, [5, 7], changes=changes)
  _refused(checkpoint, match)


def test_parameters_of_whole_numbers_are_refused(tmp_path):
  checkpoint, array_folder = _legacy(tmp_path)
  _write_zarr(array_folder, KERNEL.view(np.int32), [5, 7])
  with pytest.raises(UserError, match="has dtype int32, and parameters are"):
    opening.open_pretrained(str(checkpoint))


@pytest.mark.parametrize(
  "step",
  [1.5, -1, True, "12", [[1], [1, 2]], _inline(ROW), _inline(np.arange(3))],
)
def test_steps_that_are_none(tmp_path, step):
  checkpoint, array_folder = _legacy(tmp_path, state={"step": step})
  _write_zarr(array_folder, KERNEL, [5, 7])
  _refused(checkpoint, "its step is no whole number")


def test_hostile_msgpack(tmp_path):
  for i, (target, match) in enumerate(
    [
      ({"a": msgpack.ExtType(7, b"code")}, "extension 7"),
      ({"a": _reference("x", driver="n5")}, "driver 'n5'"),
      ({"a": msgpack.ExtType(1, b"junk")}, "cannot be read"),
      (
        {"a": msgpack.ExtType(1, msgpack.packb(([3], "object", b"")))},
        "dtype 'object'",
      ),
      (
        {"a": msgpack.ExtType(1, msgpack.packb(([3], "float32", b"")))},
        "cannot be read",
      ),
      ([1], "no 'target'"),
    ]
  ):
    checkpoint, _ = _legacy(tmp_path / str(i), target=target)
    _refused(checkpoint, match)
  junk, _ = _legacy(tmp_path / "junk")
  (junk / "checkpoint").write_bytes(b"\xc1")
  _refused(junk, "cannot be read")
  nested = {}
  for _ in range(100):
    nested = {"a": nested}
  deep, _ = _legacy(tmp_path / "deep", target=nested)
  _refused(deep, "too deep")
