"""What `t5x_checkpoints_test` does not see: which chunks are kept."""

import json

import numpy as np

from dss_jax.pretrained.files import bounds, zarr_arrays


def test_the_oldest_chunks_make_room_however_small_they_are(
  tmp_path, monkeypatch
):
  values = np.arange(500, dtype="<f4")
  folder = tmp_path / "x"
  folder.mkdir()
  header = {
    "zarr_format": 2,
    "shape": [len(values)],
    "chunks": [1],
    "dtype": "<f4",
    "compressor": None,
    "order": "C",
    "filters": None,
    "fill_value": None,
  }
  (folder / ".zarray").write_text(json.dumps(header))
  for i, value in enumerate(values):
    (folder / str(i)).write_bytes(value.tobytes())
  monkeypatch.setattr(zarr_arrays, "_CACHE_BYTES", 20_000)
  store = zarr_arrays.ZarrStore(tmp_path, bounds.Budget())
  array = store.open("x")
  for _ in range(2):
    np.testing.assert_array_equal(array.whole(), values)
    kept = [f"x/{i}" for i in range(500)][-len(store._unpacked) :]
    assert list(store._unpacked) == kept
    assert 30 < len(kept) < 40
