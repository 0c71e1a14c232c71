"""PyTorch's `.bin` files: tensors are read, pickles are not run."""

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.pretrained import open_pretrained

pytestmark = [pytest.mark.hf, pytest.mark.slow]
torch = pytest.importorskip("torch")


def _folder(folders, path, weights=None, **options):
  folder = folders.write(path)
  (folder / "model.safetensors").unlink()
  if weights is not None:
    torch.save(weights, folder / "pytorch_model.bin", **options)
  return folder


def _tensors(folders):
  weights = folders.random_weights()
  return {name: torch.tensor(array) for name, array in weights.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors(tmp_path, folders, zipped, dtype):
  tensors = {
    name: tensor.to(getattr(torch, dtype))
    for name, tensor in _tensors(folders).items()
  }
  folder = _folder(
    folders,
    tmp_path / "x",
    tensors,
    _use_new_zipfile_serialization=zipped,
  )
  opened = open_pretrained(str(folder))
  assert opened.config == folders.CONFIG
  kernel = opened.arrays["decoder/logits_dense/kernel"]
  expected = tensors["lm_head.weight"].float().numpy().T
  np.testing.assert_array_equal(kernel.whole().astype(np.float32), expected)
  if dtype == "bfloat16":
    assert kernel.dtype == ml_dtypes.bfloat16


class _Attack:
  def __init__(self, target):
    self.target = target

  def __reduce__(self):
    return os.mkdir, (self.target,)


def test_pickles_are_refused_and_not_run(tmp_path, folders):
  target = str(tmp_path / "attacked")
  folder = _folder(folders, tmp_path / "x")
  file = folder / "pytorch_model.bin"
  for write in (
    lambda: file.write_bytes(pickle.dumps(_Attack(target))),
    lambda: torch.save({"a": _Attack(target)}, file),
    lambda: torch.save(
      {"a": _Attack(target)}, file, _use_new_zipfile_serialization=False
    ),
  ):
    write()
    with pytest.raises(UserError, match="nothing of it was run") as error:
      open_pretrained(str(folder))
    assert "\n" not in str(error.value)
    assert not os.path.exists(target)


def test_damaged_files_and_other_contents(tmp_path, folders):
  tensors = _tensors(folders)
  folder = _folder(folders, tmp_path / "x", tensors)
  file = folder / "pytorch_model.bin"
  data = file.read_bytes()
  for content in (b"", b"junk", data[:1000], data[: len(data) // 2]):
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
      open_pretrained(str(folder))
  torch.save([1, 2], file)
  with pytest.raises(UserError, match="no dict of tensors"):
    open_pretrained(str(folder))
  torch.save(tensors | {"note": "text"}, file)
  with pytest.raises(UserError, match="weights are plain tensors"):
    open_pretrained(str(folder))
  wide = torch.zeros(1).expand(2**40)
  torch.save(tensors | {"more": wide}, file)
  with pytest.raises(UserError, match="more than it stores"):
    open_pretrained(str(folder))


def test_a_file_that_was_packed_again(tmp_path, folders):
  """PyTorch maps packed bytes as they are, and unpacks bombs."""
  folder = _folder(folders, tmp_path / "x", _tensors(folders))
  file = folder / "pytorch_model.bin"
  with zipfile.ZipFile(file) as old:
    entries = [(each.filename, old.read(each)) for each in old.infolist()]
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
    for name, data in entries:
      new.writestr(name, data)
  with pytest.raises(UserError, match="is compressed"):
    open_pretrained(str(folder))


def test_without_pytorch(tmp_path, folders, monkeypatch):
  import sys

  folder = _folder(folders, tmp_path / "x", _tensors(folders))
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match="install torch"):
    open_pretrained(str(folder))
