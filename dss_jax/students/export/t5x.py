"""The T5X format: a folder `checkpoint_<step>` as T5X itself writes it.

There are two layouts. The legacy layout, which all of T5X's tools read, is a
msgpack file with small arrays inline and one zarr folder for each large array.
The Orbax layout is what T5X trains with by default.

The optimizer's state is included if it is Adafactor's, the one optimizer that
both projects have.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from dss_jax.base import named_trees
from dss_jax.base.errors import StorageError, UserError, one_line
from dss_jax.models import abstract_params, partitioning
from dss_jax.pretrained import t5x_checkpoints
from dss_jax.students.export import answer_checks, formats, tokenizer_files
from dss_jax.students.student import Student
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import t5x_optimizer_state
from dss_jax.training.optimizers import adafactor

PACKAGES = ()
CHECK_PACKAGES = ()
HAS_TOKENIZER = False
OWN_DTYPE = True

Tree = dict[str, Any]
VERSION = 3  # of the msgpack file
MAX_CHUNK_BYTES = 64 * 2**20  # of zarr arrays, as T5X
_EXT_NDARRAY = 1  # Flax's msgpack extension type
_ADAFACTOR_SLOTS = frozenset(adafactor.AdafactorState._fields)


def write(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> None:
  """Writes `checkpoint_<step>` and the vocabulary."""
  params = jax.tree.map(partitioning.to_host, student.params)
  step = student.description.get("step") or 0
  states = None
  if (found := _optimizer_state(student)) is not None:
    step, states = found
  write_checkpoint(folder, params, states, step, layout=options.t5x_layout)
  tokenizer_files.write_vocabulary(student, folder)


def _optimizer_state(student: Student) -> tuple[int, Tree] | None:
  """Adafactor's step and T5X's `param_states`, if the run has them."""
  source, step = (student.description.get(key) for key in ("source", "step"))
  if not source or step is None:
    return None
  if not (pathlib.Path(source) / checkpoints_lib.FOLDER).is_dir():
    return None
  with checkpoints_lib.Checkpoints(source, read_only=True) as saved:
    state = saved.restore_numpy(step)["opt_state"]
  if not isinstance(state, Mapping) or set(state) != _ADAFACTOR_SLOTS:
    return None
  # If only some parameters were trained, T5X has no state like theirs.
  if jax.tree.structure(state["v"]) != jax.tree.structure(student.params):
    return None
  states = t5x_optimizer_state.to_t5x(adafactor.AdafactorState(**state))
  return int(state["count"]), jax.tree.map(np.asarray, states)


def write_checkpoint(
  folder: pathlib.Path,
  params: Tree,
  param_states: Tree | None,
  step: int,
  *,
  layout: str = "legacy",
) -> pathlib.Path:
  """Writes one checkpoint.

  Args:
    folder: gets the folder `checkpoint_<step>`.
    params: nested dict of host arrays under T5X's paths.
    param_states: T5X's Adafactor state, with `{m, v, v_row, v_col}` in place of
      each array; None leaves it out.
    step: updates made.
    layout: `legacy` or `orbax`.

  Returns:
    The checkpoint's folder.

  Raises:
    StorageError: for a disk that is full or fails.
  """
  path = folder / f"checkpoint_{step}"
  state: Tree = {"step": np.asarray(step, np.int32)}
  if param_states is not None:
    state["param_states"] = param_states
  tree = {"state": state, "target": params}
  try:
    (_write_legacy if layout == "legacy" else _write_orbax)(path, tree)
  except (OSError, ValueError) as error:  # TensorStore raises ValueErrors
    raise StorageError(
      f"cannot write {path} ({one_line(error, longest=300)}): make room or mend"
      " the disk, and start again"
    ) from error
  return path


def _write_orbax(path: pathlib.Path, tree: Tree) -> None:
  import orbax.checkpoint as ocp

  handler = ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler())
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(
      path.absolute(),
      args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)),
    )


def _write_legacy(path: pathlib.Path, tree: Tree) -> None:
  import msgpack

  path.mkdir()
  content: Tree = {}
  for keys, array in _leaves(tree):
    node = content
    for key in keys[:-1]:
      node = node.setdefault(key, {})
    array = np.asarray(array)
    if _is_large(keys, array, tree["target"]):
      node[keys[-1]] = _write_zarr(path, ".".join(keys), array)
    else:
      node[keys[-1]] = _inline(array)
  with open(path / "checkpoint", "wb") as file:
    msgpack.pack({"version": VERSION, "optimizer": content}, file)


def _leaves(
  tree: Tree, keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(dict(value), (*keys, key))
    else:
      yield (*keys, key), value


def _is_large(keys: tuple[str, ...], array: np.ndarray, params: Tree) -> bool:
  """Whether an array is a parameter, or state of the same shape as one."""
  if keys[0] == "target":
    return True
  node: Any = params
  for key in keys[2:-1]:  # state/param_states/<path>/<slot>
    node = node[key]
  return keys[-1] != "step" and array.shape == node.shape


def _inline(array: np.ndarray) -> Any:
  import msgpack

  data = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
  return msgpack.ExtType(_EXT_NDARRAY, data)


def _write_zarr(path: pathlib.Path, name: str, array: np.ndarray) -> Tree:
  """Writes one zarr array; returns its description for the msgpack file."""
  import tensorstore as ts

  chunks = list(array.shape)
  if array.nbytes > MAX_CHUNK_BYTES:
    rows = max(MAX_CHUNK_BYTES * len(array) // array.nbytes, 1)
    chunks[0] = min(rows, len(array))
  metadata = {
    "chunks": chunks,
    "compressor": {"id": "gzip", "level": 1},
    "shape": list(array.shape),
  }
  spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
  store = ts.open(
    {**spec, "kvstore": {"driver": "file", "path": f"{path / name}/"}},
    create=True,
  ).result()
  store.write(array).result()
  # The path is relative to the msgpack file.
  return {**spec, "kvstore": {"driver": "file", "path": f"{name}/"}}


def answers(
  student: Student, folder: pathlib.Path, options: formats.ExportOptions
) -> answer_checks.Answer:
  """Returns a function that answers with the parameters read back from disk.

  Raises:
    UserError: if they are not the same, bit for bit.
  """
  del options
  (path,) = folder.glob("checkpoint_*")
  params, _, _ = t5x_checkpoints.load_t5x(path)
  wanted = abstract_params.param_shapes(student.model)
  same = named_trees.shapes(params) == named_trees.shapes(wanted)
  same = same and jax.tree.all(
    jax.tree.map(
      lambda a, b: np.array_equal(a, partitioning.to_host(b)),
      params,
      student.params,
    )
  )
  if not same:
    raise UserError(
      "the exported parameters are not the same when read back, so nothing was"
      " written"
    )
  placed = partitioning.place(
    params,
    student.partitioner.param_shardings(wanted, student.model.param_axes()),
  )
  return answer_checks.student_answers(
    dataclasses.replace(student, params=placed), own_dtype=True
  )


def usage(student: Student, options: formats.ExportOptions) -> str:
  """The gin bindings with which T5X reads the checkpoint."""
  config = student.model.config
  network = "scalable_t5" if config.scan_layers else "t5"
  fields = {
    "vocab_size": config.vocab_size,
    "emb_dim": config.emb_dim,
    "num_heads": config.num_heads,
    "num_encoder_layers": config.num_encoder_layers,
    "num_decoder_layers": config.num_decoder_layers,
    "head_dim": config.head_dim,
    "mlp_dim": config.mlp_dim,
    "mlp_activations": config.mlp_activations,
    "logits_via_embedding": config.logits_via_embedding,
  }
  lines = "\n".join(f"  {key} = {value!r}" for key, value in fields.items())
  orbax = (
    ""
    if options.t5x_layout == "orbax"
    else "train_script.train.use_orbax = False\n"
  )
  return f"""\
A T5X checkpoint in its {options.t5x_layout} layout, of the network in
`t5x/examples/{network}`:

```
INITIAL_CHECKPOINT_PATH = "FOLDER"
{orbax}network.T5Config:
{lines}
```"""
