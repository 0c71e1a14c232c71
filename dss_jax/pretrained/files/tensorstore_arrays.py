"""Arrays in the folders that Orbax writes, read by parts through TensorStore.

TensorStore is what Orbax itself reads with. Going to it directly spares
Orbax's search for the devices that the arrays were saved from.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from dss_jax.base.errors import one_line
from dss_jax.pretrained.files.bounds import Budget, broken
from dss_jax.pretrained.files.lazy_arrays import Index, LazyArray
from dss_jax.pretrained.files.zarr_arrays import PLAIN_NAME


def open_arrays(folder: pathlib.Path, budget: Budget) -> dict[str, LazyArray]:
  """The arrays in an OCDBT store, or in one zarr folder each.

  Args:
    folder: with `manifest.ocdbt`, or with folders that have `.zarray`.
    budget: which they are booked on.

  Returns:
    Each array by its name, `target.decoder.decoder_norm.scale`.

  Raises:
    UserError: for a store that is broken.
  """
  import tensorstore as ts

  place = f"{folder.resolve()}/"
  is_ocdbt = (folder / "manifest.ocdbt").is_file()
  base: dict[str, Any] = {"driver": "file", "path": place}
  if is_ocdbt:
    base = {"driver": "ocdbt", "base": base}
  store = ts.KvStore.open(base).result()
  names = sorted(
    key.decode().removesuffix("/.zarray")
    for key in store.list().result()
    if key.endswith(b"/.zarray")
  )
  if not names:
    raise broken(
      budget.folder, f"its folder {folder.name!r} has no zarr arrays"
    )
  arrays = {}
  for name in names:
    if not PLAIN_NAME.fullmatch(name):
      raise broken(budget.folder, f"it has an array named {name!r}")
    path = f"{name}/" if is_ocdbt else f"{place}{name}/"
    spec = {
      "driver": "zarr",
      "kvstore": {**base, "path": path},
      "fill_missing_data_reads": False,  # else a lost file would read as zeros
    }
    opened = ts.open(spec, open=True, read=True).result()
    dtype = budget.dtype(name, opened.dtype.name)
    budget.take(name, opened.shape, dtype)
    chunk = opened.chunk_layout.read_chunk.shape or ()  # None of a number
    budget.take_chunk(name, chunk, opened.shape, dtype)
    arrays[name] = _array(opened, dtype, budget.folder, name)
  return arrays


def _array(
  opened: Any, dtype: np.dtype, folder: pathlib.Path, name: str
) -> LazyArray:
  def read(index: Index) -> np.ndarray:
    try:
      return np.asarray(opened[index].read().result())
    except Exception as error:  # whatever is made of damaged bytes
      raise broken(folder, f"{name}: {one_line(error)}") from error

  return LazyArray(tuple(opened.shape), dtype, read)
