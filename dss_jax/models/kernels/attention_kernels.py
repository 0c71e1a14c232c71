"""Which kernel attends over whole packed rows, and its call on a mesh.

The plain attention of `layers.py` takes one bias [batch, heads, q, k] that
holds relative positions and mask together. The kernels take the two apart
(`SegmentBias`): positions once for all rows, and the mask as the segment ids it
comes from, so that nothing of the size of the scores is ever stored. Rules and
what is proven where: docs/attention.md.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.base.errors import UserError, one_line
from dss_jax.models.config import T5Config
from dss_jax.models.kernels import attention_proof, cudnn_attention
from dss_jax.models.kernels import tpu_flash_attention as flash
from dss_jax.models.kernels import triton_flash_attention as triton
from dss_jax.models.partitioning import constraints

Array = jax.Array
PartitionSpec = jax.sharding.PartitionSpec

# 0: trust the kernels without comparing them with plain attention on the device
# at hand, which takes a few seconds for each kind of attention.
PROOF_VARIABLE = "DSS_ATTENTION_PROOF"

# What "auto" tries on a platform, in this order.
_AUTO = {"gpu": ("cudnn",), "tpu": ("flash",)}
_PLATFORMS = {"cudnn": "gpu", "triton": "gpu", "flash": "tpu"}
_LOG_LEVEL = logging.INFO
_INTERPRETED = ("triton", "flash")  # on CPU, when asked for by name


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["position", "query_segments", "key_segments"],
  meta_fields=["causal", "implementation"],
)
@dataclasses.dataclass(frozen=True)
class SegmentBias:
  """The bias of a kernel: positions, and what may be seen.

  A query sees the keys of its own segment, with `causal` only those at or
  before its own position. Segment 0 is padding: what it gets is finite and
  otherwise unspecified.

  Attributes:
    position: [1, heads, q, k], or None for no relative positions.
    query_segments: [batch, q] int32.
    key_segments: [batch, k] int32.
    causal: whether later keys are hidden.
    implementation: the kernel, as `choose` returns it.
  """

  position: Array | None
  query_segments: Array
  key_segments: Array
  causal: bool
  implementation: str


def add_position(bias: Array | SegmentBias, position: Array):
  """Adds a layer's own [heads, q, k] to a bias that has no positions yet."""
  if isinstance(bias, SegmentBias):
    return dataclasses.replace(bias, position=position[None])
  return bias + position


def choose(
  config: T5Config,
  query_length: int,
  key_length: int,
  *,
  position: bool,
  causal: bool,
  training: bool,
) -> str:
  """The implementation for a stack's attention over whole rows.

  Args:
    config: says which implementation is requested.
    query_length: tokens.
    key_length: tokens.
    position: whether there is a bias of relative positions.
    causal: whether later keys are hidden.
    training: whether dropout, if there is any, is drawn.

  Returns:
    "xla" for the plain path, or the name of a kernel.

  Raises:
    UserError: a kernel was asked for by name, but does not take this or is
      wrong on this device.
  """
  requested = config.attention_implementation
  case = (config.head_dim, query_length, key_length, position, causal)
  names = (requested,)
  if requested == "auto":
    names = _AUTO.get(constraints.platform(), ())
  for name in names:
    if name == "xla":
      break
    reason = _refusal(name, config, query_length, key_length, training)
    if reason is None and _must_prove(name):
      reason = _disproof(name, *case)
    if reason is None:
      return name
    if requested != "auto":
      raise UserError(
        f"attention_implementation is {name!r}, but {reason}; 'auto' and"
        " 'xla' run everywhere",
        fields="T5Config.attention_implementation",
      )
    _log_once(f"attention without {name}: {reason}")
  return "xla"


def _refusal(
  name: str, config: T5Config, query_length: int, key_length: int, training
) -> str | None:
  """Why a kernel does not take this; None if it does."""
  platform = constraints.platform()
  interpreted = platform == "cpu" and name in _INTERPRETED
  if platform != _PLATFORMS[name] and not interpreted:
    return f"it runs on {_PLATFORMS[name]} and the device is {platform}"
  if (
    training
    and config.dropout_rate > 0
    and config.attention_dropout
    and config.dropout_broadcast == "full"
  ):
    return (
      "attention dropout with dropout_broadcast 'full' is drawn for each"
      " probability (attention_dropout = False does without)"
    )
  if config.dtype != "bfloat16" and not interpreted:
    return f"it computes in bfloat16 and dtype is {config.dtype}"
  module = {"cudnn": cudnn_attention, "flash": flash, "triton": triton}[name]
  return module.refusal(config.head_dim, query_length, key_length)


def _must_prove(name: str) -> bool:
  """Whether a kernel runs on a device that is here to prove it on."""
  here = jax.default_backend() == constraints.platform() == _PLATFORMS[name]
  return here and os.environ.get(PROOF_VARIABLE, "1") != "0"


@functools.cache
def _disproof(name: str, *case) -> str | None:
  """Why a kernel is not to be trusted on this device; None if it is."""
  head_dim, query_length, key_length, position, causal = case
  try:
    return attention_proof.disproof(
      functools.partial(_KERNELS[name], causal=causal),
      head_dim=head_dim,
      query_length=query_length,
      key_length=key_length,
      position=position,
      causal=causal,
    )
  except Exception as error:
    # Compilers and drivers raise what they like; none of it may end a run
    # that can do without the kernel.
    return f"it fails on this device ({one_line(error)})"


@functools.cache
def _log_once(message: str):
  logging.getLogger(__name__).log(_LOG_LEVEL, "%s", message)


def attention(
  query: Array, key: Array, value: Array, bias: SegmentBias
) -> Array:
  """Softmax attention without 1/sqrt(head_dim), by `bias.implementation`.

  On a mesh each device attends for its rows and heads.

  Args:
    query: [batch, heads, q, head_dim].
    key: [batch, heads, k, head_dim].
    value: [batch, heads, k, head_dim].
    bias: positions and segments.

  Returns:
    [batch, heads, q, head_dim], in the query's dtype.
  """
  attend = functools.partial(_KERNELS[bias.implementation], causal=bias.causal)
  mesh = jax.sharding.get_abstract_mesh()
  free = {
    name
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind != jax.sharding.AxisType.Manual
  }
  if free and mesh.size > 1:
    spec = constraints.partition_spec(query.shape, "batch", "heads", None, None)
    rows, heads = (None, None) if spec is None else spec[:2]
    whole = PartitionSpec(rows, heads, None, None)
    ids = PartitionSpec(rows, None)
    # Positions are the same for all rows: their gradients are added up over
    # the devices by the transpose of the mapping.
    position = PartitionSpec(None, heads, None, None)
    attend = jax.shard_map(
      attend,
      in_specs=(whole, whole, whole, position, ids, ids),
      out_specs=whole,
      axis_names=free,
      check_vma=False,
    )
  return attend(
    query,
    key,
    value,
    bias.position,
    jnp.asarray(bias.query_segments, np.int32),
    jnp.asarray(bias.key_segments, np.int32),
  )


# (query, key, value, position, query_segments, key_segments, *, causal)
_KERNELS: dict[str, Callable[..., Array]] = {
  "cudnn": cudnn_attention.attention,
  "triton": triton.attention,
  "flash": flash.attention,
}
