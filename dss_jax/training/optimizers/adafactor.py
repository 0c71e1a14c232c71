"""Adafactor as T5X computes and stores it, as an Optax transformation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dss_jax.base.errors import UserError
from dss_jax.models.partitioning import logical_axes
from dss_jax.training.optimizers import updates as updates_lib
from dss_jax.training.optimizers.schedules import LearningRateFn


def standard_logical_factor_rules() -> dict[str, str]:
  """T5X's rules: how Adafactor factors a dimension of a given name.

  `row` and `column` dimensions are averaged away in turn, `none` ones never,
  `batch` ones stack separate parameters. They decide for parameters with more
  than two dimensions; see `Adafactor.factored`.
  """
  columns = (
    "vocab mlp heads kv joined_kv q_wi_fused o_wo_fused multiquery_heads"
    " kv_fused mlp_activations"
  )
  return {
    "embed": "row",
    "relpos_buckets": "none",
    "layer_norm_scale": "none",
    **dict.fromkeys(logical_axes.BATCH_AXES, "batch"),
    **dict.fromkeys(columns.split(), "column"),
  }


class AdafactorState(NamedTuple):
  """Adafactor's memory, leaf for leaf as T5X keeps it.

  Unused slots hold zeros of shape (1,).
  """

  count: jax.Array  # [] int32, updates made so far
  v_row: Any  # second moment averaged over the column dimensions
  v_col: Any  # second moment averaged over the row dimensions
  v: Any  # unfactored second moment
  m: Any  # momentum; None for all parameters unless beta1 is set


class _Plan(NamedTuple):
  """How one parameter is treated; dimensions are positions in its shape."""

  block: tuple[int, ...]  # averaged over for sizes and clipping
  factors: tuple[tuple[int, ...], tuple[int, ...]] | None  # rows, columns


class _Slots(NamedTuple):
  """One parameter's part of the state."""

  v_row: Any
  v_col: Any
  v: Any
  m: Any


@dataclasses.dataclass(frozen=True)
class Adafactor:
  """Adafactor (arXiv:1804.04235) with T5X's defaults, arithmetic and state.

  One deviation: a scanned layer is factored by the very rule of an unscanned
  one (its two largest dimensions, if both reach `min_dim_size_to_factor`), so
  that both give the same step. T5X applies its rules by name there without
  looking at sizes; the two agree wherever dimensions reach the minimum.

  Attributes:
    factored: keep row and column averages of the second moment, not all of it.
    multiply_by_parameter_scale: make the learning rate relative to the RMS of
      the parameter.
    beta1: decay of the momentum; None keeps none.
    decay_rate: second moments decay by 1 - t**-decay_rate at update t.
    step_offset: update that counts as the first in that decay.
    clipping_threshold: largest RMS of an update before the learning rate; None
      does not clip.
    weight_decay_rate: fraction of a parameter taken away per update. As in
      T5X it is not multiplied by the learning rate.
    weight_decay_rate_lr_exponent: if set, the rate above (or 1) times
      learning_rate**this.
    min_dim_size_to_factor: smallest dimension that is factored.
    epsilon1: added to squared gradients.
    epsilon2: smallest RMS a parameter counts with.
    max_parameter_scale: largest RMS a parameter counts with; None is no limit.
    dtype_momentum: type the momentum is kept in.
    logical_factor_rules: roles of named dimensions, for parameters with more
      than two dimensions; None takes `standard_logical_factor_rules()`.
    clip_norm: largest global norm of the gradient; None does not clip.
    no_decay: paths (regular expressions) that weight decay leaves out.
  """

  factored: bool = True
  multiply_by_parameter_scale: bool = True
  beta1: float | None = None
  decay_rate: float = 0.8
  step_offset: int = 0
  clipping_threshold: float | None = 1.0
  weight_decay_rate: float | None = None
  weight_decay_rate_lr_exponent: float | None = None
  min_dim_size_to_factor: int = 128
  epsilon1: float = 1e-30
  epsilon2: float = 1e-3
  max_parameter_scale: float | None = None
  dtype_momentum: str = "float32"
  logical_factor_rules: Mapping[str, str] | None = None
  clip_norm: float | None = None
  no_decay: tuple[str, ...] = updates_lib.NO_DECAY

  def _plan(self, param: logical_axes.NamedParam) -> _Plan:
    shape = param.value.shape
    block = logical_axes.block_dims(param.axes)
    if not self.factored or len(block) < 2:
      return _Plan(block, None)
    if len(block) == 2:
      # The larger dimension is the column; of equal ones the second, as in
      # T5X (a stable sort).
      row, column = sorted(block, key=lambda dim: shape[dim])
      if shape[row] < self.min_dim_size_to_factor:
        return _Plan(block, None)
      return _Plan(block, ((row,), (column,)))
    rules = self.logical_factor_rules or standard_logical_factor_rules()
    roles = []
    for name in param.axes:
      if name is None or name not in rules:
        raise UserError(
          f"logical_factor_rules has no rule for axis {name!r} of parameter"
          f" {param.path} {tuple(shape)}; it has rules for {', '.join(rules)}",
          fields="Adafactor.logical_factor_rules",
        )
      roles.append(rules[name])
    rows = tuple(dim for dim in block if roles[dim] == "row")
    columns = tuple(dim for dim in block if roles[dim] == "column")
    if not rows or not columns:
      return _Plan(block, None)
    if len(rows) + len(columns) != len(block):
      raise UserError(
        f"logical_factor_rules gives parameter {param.path} the roles {roles};"
        " they must be rows and columns only, or neither of them",
        fields="Adafactor.logical_factor_rules",
      )
    return _Plan(block, (rows, columns))

  def _init_slots(self, plan: _Plan, shape: tuple[int, ...]) -> _Slots:
    unused = jnp.zeros((1,), jnp.float32)
    m = None
    if self.beta1 is not None:
      m = jnp.zeros(shape, self.dtype_momentum)
    if plan.factors is None:
      return _Slots(unused, unused, jnp.zeros(shape, jnp.float32), m)
    rows, columns = plan.factors
    dims = range(len(shape))
    v_row = jnp.zeros([shape[d] for d in dims if d not in columns], jnp.float32)
    v_col = jnp.zeros([shape[d] for d in dims if d not in rows], jnp.float32)
    return _Slots(v_row, v_col, unused, m)

  def _moments(self, plan: _Plan, grad, slots: _Slots, decay):
    """New second moments, and the gradient divided by their root."""
    squares = grad * grad + self.epsilon1
    mixing = 1.0 - decay
    if plan.factors is None:
      v = decay * slots.v + mixing * squares
      return grad * jax.lax.rsqrt(v), slots._replace(v=v)
    rows, columns = plan.factors
    v_row = decay * slots.v_row + mixing * jnp.mean(squares, axis=columns)
    v_col = decay * slots.v_col + mixing * jnp.mean(squares, axis=rows)
    wide_row = jnp.expand_dims(v_row, columns)
    wide_col = jnp.expand_dims(v_col, rows)
    # Rows relative to their mean, so that the product has the right size.
    wide_row = wide_row / jnp.mean(wide_row, axis=rows, keepdims=True)
    direction = grad * jax.lax.rsqrt(wide_row) * jax.lax.rsqrt(wide_col)
    return direction, slots._replace(v_row=v_row, v_col=v_col)

  def _update_leaf(self, plan, decays, grad, param, slots, decay, rate):
    """One parameter's change and new slots."""
    grad = grad.astype(jnp.float32)

    def rms(x):
      return jnp.sqrt(jnp.mean(x * x, axis=plan.block, keepdims=True))

    direction, slots = self._moments(plan, grad, slots, decay)
    if self.clipping_threshold is not None:
      excess = rms(direction) / self.clipping_threshold
      direction = direction / jnp.maximum(1.0, excess)
    scale = rate
    if self.multiply_by_parameter_scale:
      size = jnp.maximum(rms(param), self.epsilon2)
      if self.max_parameter_scale is not None:
        size = jnp.minimum(size, self.max_parameter_scale)
      scale = scale * size
    change = scale * direction
    if self.beta1 is not None:
      change = self.beta1 * slots.m + (1.0 - self.beta1) * change
      slots = slots._replace(m=change.astype(self.dtype_momentum))
    weight_decay = self.weight_decay_rate
    if self.weight_decay_rate_lr_exponent is not None:
      weight_decay = (weight_decay or 1.0) * (
        rate**self.weight_decay_rate_lr_exponent
      )
    if weight_decay is not None and decays:
      change = change + weight_decay * param
    return -change.astype(param.dtype), slots

  def transform(
    self,
    learning_rate_fn: LearningRateFn,
    params_shape: Any,
    param_axes: Any = None,
  ) -> optax.GradientTransformationExtraArgs:
    """The Optax transformation; its state is an `AdafactorState`.

    Raises:
      UserError: if a parameter of three or more dimensions has no rule.
    """
    named = list(logical_axes.named_params(params_shape, param_axes))
    plans = [self._plan(param) for param in named]
    decays = jax.tree.leaves(
      updates_lib.decay_mask(params_shape, self.no_decay)
    )
    structure = jax.tree.structure(params_shape)

    def pack(count, slots):
      fields = {
        name: structure.unflatten([getattr(s, name) for s in slots])
        for name in ("v_row", "v_col", "v")
      }
      m = None
      if self.beta1 is not None:
        m = structure.unflatten([s.m for s in slots])
      return AdafactorState(count, m=m, **fields)

    def init(params):
      leaves = structure.flatten_up_to(params)
      slots = [
        self._init_slots(plan, leaf.shape)
        for plan, leaf in zip(plans, leaves, strict=True)
      ]
      return pack(jnp.zeros([], jnp.int32), slots)

    def update(updates, state, params=None, **extra_args):
      if params is None:
        raise ValueError("Adafactor needs the parameters to update them")
      rate = updates_lib.rate_of_update(
        learning_rate_fn, state.count, **extra_args
      )
      # At least 1: a step_offset ahead of the count would take roots of
      # negative numbers.
      t = jnp.maximum(state.count - self.step_offset + 1, 1)
      decay = 1.0 - t.astype(jnp.float32) ** -self.decay_rate
      flat = structure.flatten_up_to
      no_m = [None] * len(plans)
      slots = map(
        _Slots,
        flat(state.v_row),
        flat(state.v_col),
        flat(state.v),
        no_m if self.beta1 is None else flat(state.m),
      )
      changes, new_slots = zip(
        *(
          self._update_leaf(*leaf, decay, rate)
          for leaf in zip(plans, decays, flat(updates), flat(params), slots)
        )
      )
      count = optax.safe_increment(state.count)
      return structure.unflatten(changes), pack(count, new_slots)

    return updates_lib.clipped(
      optax.GradientTransformationExtraArgs(init, update), self.clip_norm
    )
