"""The T5X format: a folder `checkpoint_<step>` as T5X itself writes it.

There are two layouts. The legacy layout, which all of T5X's tools read, is a
msgpack file with small arrays inline and one zarr folder for each large array.
The Orbax layout is what T5X trains with by default.

The optimizer's state is included if it is Adafactor's, the one optimizer that
both projects have.

Parameters lie as the network that T5X has for the student's: `t5`, layers apart,
or `scalable_t5` for a position bias in each layer, which stacks the layers and
keeps heads apart from head_dim.
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
from dss_jax.models import abstract_params, layer_stacking, partitioning
from dss_jax.models.config import T5Config
from dss_jax.pretrained import huggingface_weights, opening
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.students.export import answer_checks, formats, tokenizer_files
from dss_jax.students.student import Student
from dss_jax.training import adafactor_slots, t5x_optimizer_state
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training.optimizers import adafactor

PACKAGES = ()
CHECK_PACKAGES = ()
HAS_TOKENIZER = False
OWN_DTYPE = True

Tree = dict[str, Any]
VERSION = 3  # of the msgpack file
MAX_CHUNK_BYTES = 64 * 2**20  # of zarr arrays, as T5X
_EXT_NDARRAY = 1  # Flax's msgpack extension type
_ADAFACTOR_STATE = ("m", "v", "v_row", "v_col")  # of a parameter
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
  config = student.model.config
  params, states = to_t5x(params, states, config)
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
    found = saved.restore_numpy(step)["opt_state"]
  if not isinstance(found, Mapping):
    return None
  # A momentum that is not kept has no arrays, and is not in the checkpoint.
  state: dict[str, Any] = {"m": None, **found}
  if set(state) != _ADAFACTOR_SLOTS:
    return None
  # If only some parameters were trained, T5X has no state like theirs.
  if jax.tree.structure(state["v"]) != jax.tree.structure(student.params):
    return None
  states = t5x_optimizer_state.to_t5x(adafactor.AdafactorState(**state))
  return int(state["count"]), jax.tree.map(np.asarray, states)


def to_t5x(
  params: Tree, states: Tree | None, config: T5Config
) -> tuple[Tree, Tree | None]:
  """Parameters and Adafactor's state, laid out as one of T5X's networks.

  Args:
    params: host arrays, as the student has them.
    states: `t5x_optimizer_state.to_t5x` of their optimizer's state.
    config: the student's.

  Returns:
    Both; no state where the student's factors what T5X's does not.
  """
  if config.scan_layers:
    params = layer_stacking.unstack_layers(params)
  scalable = config.relpos_bias_per_layer
  found = None
  if states is not None:
    slots = jax.tree.map(lazy_arrays.in_memory, states)
    found = _slots(_by_path(slots), config, scalable)
  if scalable:
    stacked = layer_stacking.stack_layers(params)
    apart = {
      path: adafactor_slots.heads_apart(path, array, config.num_heads)
      for path, array in _by_path(stacked).items()
    }
    params = named_trees.nested(apart)
  return params, found


def _slots(
  slots: Mapping[str, lazy_arrays.LazyArray], config: T5Config, scalable: bool
) -> Tree | None:
  """T5X's `param_states` for one of its networks."""
  moments = t5x_optimizer_state.moments(slots, config, by_name=False)
  shapes = huggingface_weights.flat_shapes(config)
  result: dict[str, np.ndarray] = {}
  for key, paths in t5x_optimizer_state.groups(config, stack=scalable).items():
    layers = [moments[path] for path in paths]
    row = None
    if scalable and key != paths[0]:
      row = adafactor_slots.row_by_name(key)
    elif layers[0].kept is not None:
      row = adafactor_slots.row_by_size(shapes[key])
    arrays = adafactor_slots.of_layers(
      layers,
      momentum=layers[0].momentum is not None,
      row=row,
      stack=key != paths[0],
    )
    if len(arrays) < len(_ADAFACTOR_STATE):
      return None
    for name, array in arrays.items():
      value = array.whole()
      if scalable and name != "v_row":  # which keeps no heads
        value = adafactor_slots.heads_apart(key, value, config.num_heads)
      result[f"{key}/{name}"] = value
  return named_trees.nested(result)


def _by_path(tree: Tree) -> dict[str, Any]:
  return {"/".join(keys): leaf for keys, leaf in _leaves(tree)}


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
  wanted = abstract_params.param_shapes(student.model)
  found = opening.open_pretrained(str(path)).load(
    student.model,
    student.partitioner.param_shardings(wanted, student.model.param_axes()),
  )
  placed = jax.tree.map(
    lambda leaf, own: leaf.astype(own.dtype), found, student.params
  )
  same = jax.tree.map(
    lambda a, b: np.array_equal(
      partitioning.to_host(a), partitioning.to_host(b)
    ),
    placed,
    student.params,
  )
  if not jax.tree.all(same):
    raise UserError(
      "the exported parameters are not the same when read back, so nothing was"
      " written"
    )
  return answer_checks.student_answers(
    dataclasses.replace(student, params=placed), own_dtype=True
  )


def usage(student: Student, options: formats.ExportOptions) -> str:
  """The gin bindings with which T5X reads the checkpoint."""
  config = student.model.config
  network = "scalable_t5" if config.relpos_bias_per_layer else "t5"
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
