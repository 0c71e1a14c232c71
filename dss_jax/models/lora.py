"""Low-rank adapters (LoRA, arXiv:2106.09685): few parameters, trained alone.

A kernel W [in, out] of a base student counts as

    W + (alpha / rank) · A B,        A [in, rank], B [rank, out]

and only A and B are trained. The base is the student's own tree; adapters are
a tree of the same paths with `lora_a` and `lora_b` where the base has `kernel`:

    encoder/layers_0/attention/query/{lora_a, lora_b}

Joined, both are a tree that any function of the model takes; merged, the
kernels are sums and look like those of a student trained whole.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dss_jax.base import checks, named_trees
from dss_jax.base.errors import UserError
from dss_jax.models import (
  abstract_params,
  encoder_decoder,
  layer_parts,
  layer_stacking,
)
from dss_jax.models.partitioning import logical_axes
from dss_jax.models.partitioning.placement import to_host

PyTree = Any
Batch = encoder_decoder.Batch

# What `LoraOptions.targets` may say instead of a regular expression.
TARGETS = {
  "query_value": r"attention/(query|value)/kernel$",
  "attention": r"attention/\w+/kernel$",
  "attention_and_mlp": r"(attention|mlp)/\w+/kernel$",
}
_A, _B = layer_parts.LOW_RANK
_KERNEL = "kernel"


@dataclasses.dataclass(frozen=True)
class LoraOptions:
  """Which kernels get adapters, and of which size.

  Attributes:
    rank: the inner dimension of A B.
    alpha: A B is multiplied by alpha / rank, so that the learning rate need
      not change with the rank.
    targets: `query_value` (the paper's choice), `attention`,
      `attention_and_mlp`, or a regular expression searched in the paths of
      kernels.
    also_train: regular expressions, or one; parameters with such paths are
      trained (and saved) whole, `scale$` for the layer norms, say.
  """

  rank: int = 8
  alpha: float = 32.0
  targets: str = "query_value"
  also_train: tuple[str, ...] | list[str] | str = ()

  def __post_init__(self):
    also_train = self.also_train
    if isinstance(also_train, str):
      also_train = (also_train,)
    object.__setattr__(self, "also_train", tuple(also_train))
    checks.in_range("LoraOptions.rank", self.rank, 1)
    if not (self.alpha > 0 and math.isfinite(self.alpha)):
      raise UserError(
        f"alpha is {self.alpha!r}; it must be a number above 0",
        fields="LoraOptions.alpha",
      )
    for name, pattern in (
      ("targets", self.pattern),
      *(("also_train", pattern) for pattern in self.also_train),
    ):
      try:
        re.compile(pattern)
      except re.error as error:
        raise UserError(
          f"{name} is {pattern!r}, which is no regular expression ({error});"
          f" {_ALLOWED[name]}",
          fields=f"LoraOptions.{name}",
        ) from error

  @property
  def pattern(self) -> str:
    """The regular expression that `targets` stands for."""
    return TARGETS.get(self.targets, self.targets)

  @property
  def scale(self) -> float:
    """What A B is multiplied by."""
    return self.alpha / self.rank


_ALLOWED = {
  "targets": (
    f"give {', '.join(TARGETS)}, or a regular expression for paths of kernels"
  ),
  "also_train": "give regular expressions for paths of parameters",
}


class LoraModel:
  """Adapters for a model, as functions of a base and of what is trained.

  `init` and `param_axes` are those of the trained part alone, so that the
  optimizer, the mesh and the checkpoints take it for a model's parameters.

  Attributes:
    model: the base's.
    options: which adapters.
  """

  def __init__(
    self, model: encoder_decoder.EncoderDecoderModel, options: LoraOptions
  ):
    """Finds the kernels.

    Raises:
      UserError: where a pattern matches nothing, or a kernel twice.
    """
    self.model = model
    self.options = options
    params = list(
      logical_axes.named_params(
        abstract_params.param_shapes(model), model.param_axes()
      )
    )
    self._adapted = {
      param.path: param
      for param in params
      if param.path.endswith(f"/{_KERNEL}")
      and re.search(options.pattern, param.path)
    }
    if not self._adapted:
      raise _no_match("targets", options.targets, params)
    self._whole = {}
    for pattern in options.also_train:
      found = {p.path: p for p in params if re.search(pattern, p.path)}
      if not found:
        raise _no_match("also_train", pattern, params)
      self._whole |= found
    twice = sorted(set(self._whole) & set(self._adapted))
    if twice:
      raise UserError(
        f"also_train {list(options.also_train)} trains {twice[0]} whole, which"
        f" targets {options.targets!r} gives an adapter: take it out of one of"
        " them",
        fields=("LoraOptions.also_train", "LoraOptions.targets"),
      )

  def init(self, key: jax.Array, base: PyTree | None = None) -> PyTree:
    """The trained part before the first step, with which the base is as it is.

    A is drawn as by the paper's code, uniformly within ±1/√in; B is zero. The
    same key gives the same values whether layers are scanned or not.

    Args:
      key: a typed key.
      base: the base's parameters; None draws them from the key, too.
    """
    if base is None:
      base = self.model.init(key) if self._whole else {}
    found = {
      path: leaf for path, leaf in by_path(base).items() if path in self._whole
    }
    for param in self._adapted.values():
      a_path, b_path = _adapter_paths(param.path)
      found[a_path] = self._draw(key, param)
      shape = (self.options.rank, *param.value.shape[1:])
      found[b_path] = jnp.zeros(shape, jnp.float32)
    return unflatten_dict(found, sep="/")

  def _draw(self, key: jax.Array, param: logical_axes.NamedParam) -> jax.Array:
    fan_in = param.value.shape[0]
    path, layer = layer_stacking.place_in_stack(param.path)
    key = jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))
    bound = 1 / math.sqrt(fan_in)

    def draw(layer: int) -> jax.Array:
      return jax.random.uniform(
        jax.random.fold_in(key, layer),
        (fan_in, self.options.rank),
        minval=-bound,
        maxval=bound,
      )

    if len(param.value.shape) == 2:
      return draw(layer or 0)
    num_layers = param.value.shape[layer_stacking.LAYERS_AXIS]
    drawn = [draw(layer) for layer in range(num_layers)]
    return jnp.stack(drawn, axis=layer_stacking.LAYERS_AXIS)

  def param_axes(self) -> PyTree:
    """The tree of `init` with a tuple of logical axis names for each array."""
    found = {path: param.axes for path, param in self._whole.items()}
    for param in self._adapted.values():
      a_path, b_path = _adapter_paths(param.path)
      # The rank has no name: whatever the rules, it is not split.
      found[a_path] = (*param.axes[:-1], None)
      found[b_path] = (None, *param.axes[1:])
    return unflatten_dict(found, sep="/")

  def num_trained(self) -> int:
    """How many parameters are trained."""
    shapes = abstract_params.param_shapes(self)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

  def join(self, base: PyTree, trained: PyTree) -> PyTree:
    """A tree for the model's functions, with adapters next to their kernels.

    Args:
      base: the base's parameters.
      trained: as from `init`.
    """
    found = by_path(base)
    for path, leaf in by_path(trained).items():
      # The model adds A B as it finds them.
      found[path] = leaf * self.options.scale if _is_b(path) else leaf
    return unflatten_dict(found, sep="/")

  def merge(self, base: PyTree, trained: PyTree) -> PyTree:
    """The student's parameters, with the paths, shapes and places of the base.

    Kernel by kernel; what is not trained is the base's own array.

    Args:
      base: the base's parameters, on a mesh or NumPy.
      trained: as from `init`, likewise.
    """
    found = by_path(base)
    changes = by_path(trained)
    found |= {path: changes[path] for path in self._whole}
    for path in self._adapted:
      a, b = (changes[name] for name in _adapter_paths(path))
      kernel = found[path]
      sharding = getattr(kernel, "sharding", None)
      merged = _merged_kernel(kernel, a, b, self.options.scale, sharding)
      if isinstance(kernel, np.ndarray):
        merged = np.asarray(merged)
      found[path] = merged
    return unflatten_dict(found, sep="/")

  def on(self, base: PyTree) -> AdaptedModel:
    """The model as a function of the trained part alone, for a step."""
    return AdaptedModel(self, base)


class AdaptedModel:
  """A model on a given base: what a training step needs of one.

  Made inside the step, whose argument the base is: a base known beforehand
  would become a constant of the program.
  """

  def __init__(self, lora: LoraModel, base: PyTree):
    self._lora = lora
    self._base = base

  def hidden_states(
    self,
    params: PyTree,
    batch: Batch,
    *,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """As the base model's; `params` as from `LoraModel.init`."""
    return self._lora.model.hidden_states(
      self._lora.join(self._base, params), batch, dropout_key=dropout_key
    )

  def logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    """As the base model's; `params` as from `LoraModel.init`."""
    return self._lora.model.logits(self._lora.join(self._base, params), hidden)


def weights_hash(params: PyTree) -> str:
  """SHA-256 of a student's parameters, the same for both layouts of layers.

  One array at a time is on the host, however large the student.
  """
  found = {}
  for path, leaf in by_path(params).items():
    array = leaf if isinstance(leaf, np.ndarray) else to_host(leaf)
    for name, part in layer_stacking.one_by_one(path, array):
      found[name] = named_trees.tree_hash(part)
  lines = [f"{name} {found[name]}\n" for name in sorted(found)]
  return hashlib.sha256("".join(lines).encode()).hexdigest()


@functools.partial(jax.jit, static_argnames=("scale", "sharding"))
def _merged_kernel(
  kernel: Any, a: Any, b: Any, scale: float, sharding: Any
) -> jax.Array:
  """[in, (layers,) out], where the kernel is."""
  product = "ilr,rlo->ilo" if len(kernel.shape) == 3 else "ir,ro->io"
  # Merging happens once, so it is done in full precision on every device.
  merged = kernel + scale * jnp.einsum(product, a, b, precision="highest")
  if sharding is None:
    return merged
  return jax.lax.with_sharding_constraint(merged, sharding)


def _adapter_paths(kernel_path: str) -> tuple[str, str]:
  stem = kernel_path.removesuffix(_KERNEL)
  return f"{stem}{_A}", f"{stem}{_B}"


def _is_b(path: str) -> bool:
  return path.endswith(f"/{_B}")


def by_path(tree: PyTree) -> dict[str, Any]:
  """The arrays of a tree by their paths, `encoder/layers_0/...`."""
  return dict(flatten_dict(tree, sep="/"))


def _no_match(
  name: str, pattern: str, params: list[logical_axes.NamedParam]
) -> UserError:
  paths = [param.path for param in params]
  if name == "targets":
    paths = [path for path in paths if path.endswith(f"/{_KERNEL}")]
  examples = f"such as {', '.join(paths[:2])}" if paths else "which it has not"
  return UserError(
    f"{name} {pattern!r} matches no parameter of the student;"
    f" {_ALLOWED[name]}, {examples}",
    fields=f"LoraOptions.{name}",
  )
