"""T5X's own checkpoint goes through us and comes out as it was."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.pretrained import t5x_checkpoints
from dss_jax.students.export import t5x as export_t5x
from dss_jax.training import t5x_optimizer_state
from dss_jax.training.optimizers import adafactor


def _flat(tree):
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _assert_equal(found, wanted):
  found, wanted = _flat(found), _flat(wanted)
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    assert found[name].dtype == array.dtype, name
    np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.shared
@pytest.mark.parametrize("layout", ["legacy", "orbax"])
@pytest.mark.parametrize("source", ["legacy", "orbax"])
def test_t5xs_own_checkpoint_is_written_back_leaf_by_leaf(
  shared_data, tmp_path, source, layout
):
  params, states, step = t5x_checkpoints.load_t5x(
    shared_data / "t5x_tiny" / source
  )
  assert states is not None
  # Through our optimizer's state, as a run would keep it.
  slots = {
    slot: jax.tree.map(
      lambda each, slot=slot: each[slot],
      states,
      is_leaf=lambda node: isinstance(node, dict) and "v_row" in node,
    )
    for slot in ("v_row", "v_col", "v")
  }
  template = adafactor.AdafactorState(count=jnp.int32(0), m=None, **slots)
  state = t5x_optimizer_state.from_t5x(states, step, template)
  ours = t5x_optimizer_state.to_t5x(state)
  path = export_t5x.write_checkpoint(
    tmp_path, params, ours, int(state.count), layout=layout
  )
  assert path.name == "checkpoint_3"
  found_params, found_states, found_step = t5x_checkpoints.load_t5x(tmp_path)
  assert found_step == step
  _assert_equal(found_params, params)
  _assert_equal(found_states, states)
  leaves = len(_flat(found_params)) + len(_flat(found_states)) + 1
  assert leaves == 331


@pytest.mark.shared
def test_the_legacy_layout_is_t5xs_file_by_file(shared_data, tmp_path):
  source = shared_data / "t5x_tiny" / "legacy" / "checkpoint_3"
  params, states, step = t5x_checkpoints.load_t5x(source)
  path = export_t5x.write_checkpoint(tmp_path, params, states, step)

  def files(folder: pathlib.Path):
    return {
      str(file.relative_to(folder))
      for file in folder.rglob("*")
      if file.is_file()
    }

  assert files(path) == files(source)


def test_large_arrays_are_cut_into_chunks(tmp_path, monkeypatch):
  monkeypatch.setattr(export_t5x, "MAX_CHUNK_BYTES", 100)
  table = np.arange(70, dtype=np.float32).reshape(14, 5)
  params = {"token_embedder": {"embedding": table}}
  path = export_t5x.write_checkpoint(tmp_path, params, None, 7)
  names = sorted(
    file.name for file in (path / "target.token_embedder.embedding").iterdir()
  )
  assert names == [".zarray", "0.0", "1.0", "2.0"]
  found, states, step = t5x_checkpoints.load_t5x(path)
  assert states is None
  assert step == 7
  _assert_equal(found, params)


def test_a_full_disk_is_reported_in_one_line(tmp_path):
  (tmp_path / "checkpoint_1").write_text("in the way")
  with pytest.raises(OSError, match="cannot write") as caught:
    export_t5x.write_checkpoint(tmp_path, {"a": np.zeros(3)}, None, 1)
  assert "\n" not in str(caught.value)
