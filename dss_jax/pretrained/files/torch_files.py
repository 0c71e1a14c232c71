"""PyTorch's `.bin` files, without running what is in them.

They are pickles. `torch.load(weights_only=True)` builds tensors and plain
containers and refuses everything else; without PyTorch they are not read.
"""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from dss_jax.base.errors import UserError, one_line
from dss_jax.pretrained.files.bounds import DTYPES, MAX_ARRAYS, reading
from dss_jax.pretrained.files.lazy_arrays import Index, LazyArray


def open_torch(path: pathlib.Path) -> dict[str, LazyArray]:
  """The tensors of a file, by name.

  Files since PyTorch 1.6 are mapped and read by parts; older ones whole.

  Raises:
    UserError: without PyTorch, or for a file that is damaged or holds
      anything but tensors.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{str(path)!r} is a PyTorch file: install torch to read it, or give a"
      " folder with model.safetensors"
    ) from error
  try:
    zipped = zipfile.is_zipfile(path)
    if zipped:
      _check_stored(path)
    tensors = torch.load(
      path, map_location="cpu", weights_only=True, mmap=zipped
    )
  except Exception as error:  # PyTorch does not document what it raises
    reason = one_line(str(error) or type(error).__name__, longest=120)
    raise UserError(
      f"{str(path)!r} is damaged or holds more than tensors ({reason}):"
      " nothing of it was run; give a folder with model.safetensors"
    ) from error
  if not isinstance(tensors, dict):
    raise UserError(f"{str(path)!r} holds no dict of tensors")
  with reading(path, "PyTorch file"):
    return {
      str(name): _array(str(name), tensor, torch)
      for name, tensor in tensors.items()
    }


def _check_stored(path: pathlib.Path) -> None:
  """Refuses what is compressed; PyTorch would map it as if it were numbers."""
  with zipfile.ZipFile(path) as file:
    entries = file.infolist()
  if len(entries) > MAX_ARRAYS:
    raise ValueError(f"it has {len(entries)} entries")
  for entry in entries:
    if entry.compress_type != zipfile.ZIP_STORED:
      raise ValueError(f"{entry.filename} is compressed")


def _array(name: str, tensor: Any, torch: Any) -> LazyArray:
  shown = one_line(repr(name), longest=80)
  dtype = str(getattr(tensor, "dtype", None)).removeprefix("torch.")
  if (
    not isinstance(tensor, torch.Tensor)
    or dtype not in DTYPES
    or tensor.layout != torch.strided
    or tensor.device.type != "cpu"
  ):
    raise ValueError(
      f"{shown} has type {type(tensor).__name__} {dtype}; weights are plain"
      " tensors"
    )
  # A view may repeat a few numbers for ever.
  if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
    raise ValueError(
      f"{shown} has shape {list(tensor.shape)}, more than it stores"
    )

  def read(index: Index) -> np.ndarray:
    part = tensor.detach()[index]
    if part.dtype == torch.bfloat16:  # which NumPy does not know
      bits = part.contiguous().view(torch.int16).numpy()
      return bits.view(ml_dtypes.bfloat16)
    return part.numpy()

  return LazyArray(tuple(tensor.shape), DTYPES[dtype], read)
