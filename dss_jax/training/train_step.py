"""The training and evaluation steps: pure functions, and their jitted forms.

A step is a function of (state, batch, key) alone. Everything random folds the
state's step into the run's key, so step n is the same whenever it is run.

The numbers that a search changes (the learning rate, the weights of sub-tasks,
the seed) are arguments of the compiled program, not constants in it: runs that
differ only in these find one program in the compilation cache.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dss_jax.base.errors import UserError
from dss_jax.models.partitioning import Partitioner, place
from dss_jax.training import (
  losses,
  pair_losses,
  vocabulary_loss,
  weight_schedules,
)
from dss_jax.training.optimizers.schedules import LearningRateFn
from dss_jax.training.train_state import TrainState

Batch = losses.Batch
Sums = dict[str, jax.Array]
LossFn = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Sums]]


class Model(Protocol):
  """The functions of a model that a step calls."""

  def hidden_states(
    self, params: Any, batch: Batch, *, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    """[batch, length, emb], the decoder's outputs."""
    ...

  def logits(self, params: Any, hidden: jax.Array) -> jax.Array:
    """[batch, length, vocab] float32 of [batch, length, emb]."""
    ...


def split_microbatches(batch: Batch, num_microbatches: int) -> Batch:
  """[rows, ...] -> [num_microbatches, rows / num_microbatches, ...].

  Micro-batch i takes rows i, i + n, i + 2n, ...: rows stay on their devices.
  Cutting into runs of adjacent rows would gather the whole batch everywhere.
  """

  def split(x):
    rows = x.shape[0]
    if rows % num_microbatches:
      raise UserError(
        f"a batch has {rows} rows, not a multiple of {num_microbatches}"
        " micro-batches: change batch_size or num_microbatches",
        fields=("DatasetConfig.batch_size", "TrainConfig.num_microbatches"),
      )
    return x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(split, dict(batch))


def accumulate(
  loss_fn: LossFn,
  params: Any,
  batch: Batch,
  key: jax.Array,
  num_microbatches: int,
  grad_shardings: Any = None,
) -> tuple[tuple[jax.Array, Sums], Any]:
  """Sums loss, metrics and gradients over micro-batches, one at a time.

  Memory for activations is that of one micro-batch.

  Args:
    loss_fn: `(params, microbatch, key) -> (loss, sums)`, sums over rows.
    params: what to differentiate by.
    batch: the whole batch.
    key: folded with the index of the micro-batch.
    num_microbatches: how many.
    grad_shardings: like `params`; None leaves the gradients to the compiler,
      which may keep them whole on every device.

  Returns:
    `((loss, sums), gradients)`, as `jax.value_and_grad` would of the batch.
  """

  def value_and_grad(micro, index):
    value, grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, micro, jax.random.fold_in(key, index)
    )
    if grad_shardings is not None:
      grads = jax.lax.with_sharding_constraint(grads, grad_shardings)
    return value, grads

  if num_microbatches == 1:
    return value_and_grad(batch, 0)

  def add(total, indexed):
    index, micro = indexed
    value, grads = value_and_grad(micro, index)
    return jax.tree.map(jnp.add, total, grads), value

  grads, values = jax.lax.scan(
    add,
    jax.tree.map(jnp.zeros_like, params),
    (jnp.arange(num_microbatches), split_microbatches(batch, num_microbatches)),
  )
  return jax.tree.map(lambda x: jnp.sum(x, axis=0), values), grads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepNumbers:
  """What a compiled step takes as arguments besides state, batch and key.

  A pytree; its leaves are numbers, or float32 scalars inside a program.

  Attributes:
    subtask_weights: w_k of each sub-task, in the order of their ids; each a
      number or a schedule.
    learning_rate_fn: a schedule that is a pytree; None leaves the learning rate
      to the optimizer.
    aux_weight: of the loss of pairs, a number or a schedule, where there is one.
  """

  subtask_weights: tuple[Any, ...]
  learning_rate_fn: Any = None
  aux_weight: Any = None


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """How a step computes its loss: constants of its compiled program.

  All but the numbers that `numbers` gives.

  Attributes:
    weighting: token weights over the whole batch, w_k and n_k settled.
    num_microbatches: parts the batch is computed in, one after another.
    z_loss: see `token_losses.token_nll`.
    label_smoothing: see `token_losses.token_nll`.
    logits_at_once: positions of a device whose logits exist at once; None
      computes all of them, the plain way. See `vocabulary_loss`.
    learning_rate_fn: the rate to update with and to log; None leaves it to the
      optimizer, and unlogged.
    aux_loss: added to the loss; None adds nothing.
  """

  weighting: losses.Weighting
  num_microbatches: int = 1
  z_loss: float = 0.0
  label_smoothing: float = 0.0
  logits_at_once: int | None = None
  learning_rate_fn: LearningRateFn | None = None
  aux_loss: pair_losses.PairLoss | None = None

  def numbers(self) -> StepNumbers:
    """The numbers that may be arguments of the program."""
    learning_rate_fn: Any = self.learning_rate_fn
    if jax.tree_util.all_leaves([learning_rate_fn]):
      # A function that is no pytree: its numbers stay constants.
      learning_rate_fn = jax.tree_util.Partial(learning_rate_fn)
    return StepNumbers(
      self.weighting.subtask_weights,
      learning_rate_fn,
      self.aux_loss and self.aux_loss.weight,
    )


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  model: Model,
  tx: optax.GradientTransformation,
  base_key: jax.Array,
  options: StepOptions,
  numbers: StepNumbers | None = None,
  grad_shardings: Any = None,
) -> tuple[TrainState, Sums]:
  """One update.

  A step whose loss or gradient is not finite changes nothing but `step`, which
  is the position in the data; `nonfinite` counts it.

  Args:
    state: the state to start from.
    batch: global `[rows, length]` arrays; see `data/feeding/batches.py`.
    model: the student.
    tx: the optimizer; gets the extra arguments `step` and, where the options
      have a learning rate, `learning_rate`.
    base_key: typed key of the run, for dropout.
    options: how the loss is computed.
    numbers: in place of those of the options.
    grad_shardings: see `accumulate`.

  Returns:
    The new state, and sums over the global batch: those of
    `losses.subtask_sums`, `subtask_weights` [num_subtasks] float32, and scalars
    `loss` (the objective, z-loss and `aux_loss` included), `z_loss`,
    `grad_norm` (before clipping), `param_norm` (of the old parameters),
    `nonfinite` (0 or 1); `learning_rate`, `aux_loss` (weighted) and `pairs`
    (int32) where the options have these.
  """
  key = jax.random.fold_in(base_key, state.step)
  numbers = numbers or options.numbers()
  rates = {}
  if numbers.learning_rate_fn is not None:
    rates["learning_rate"] = numbers.learning_rate_fn(state.step)
  # [rows, length] f32, of the WHOLE batch
  subtask_weights = weight_schedules.at(numbers.subtask_weights, state.step)
  weights = options.weighting(batch, subtask_weights)
  batch = {**batch, "token_weights": weights}
  aux_loss, pairs = options.aux_loss, {}
  if aux_loss:
    is_pair = aux_loss.pairs(batch)  # [rows, length] bool
    pairs["pairs"] = jnp.sum(is_pair, dtype=jnp.int32)
    (aux_weight,) = weight_schedules.at([numbers.aux_weight], state.step)
    batch["pair_weights"] = (
      aux_weight * is_pair / jnp.maximum(pairs["pairs"], 1)
    )

  def loss_fn(params, micro, key):
    """A weighted sum over tokens, so that micro-batches add up."""
    hidden = model.hidden_states(params, micro, dropout_key=key)
    loss, tokens = vocabulary_loss.weighted_loss(
      model.logits,
      params,
      hidden,
      micro["decoder_target_tokens"],  # [rows, length]
      micro["token_weights"],
      losses.loss_mask(micro) > 0,
      z_loss=options.z_loss,
      label_smoothing=options.label_smoothing,
      chunk=options.logits_at_once,
    )
    num_subtasks = options.weighting.num_subtasks
    sums = losses.subtask_sums(tokens, micro, num_subtasks)
    sums["z_loss"] = jnp.sum(tokens.z * micro["token_weights"])
    if aux_loss:
      logits = model.logits(params, hidden)
      sums["aux_loss"] = aux_loss(logits, micro, micro["pair_weights"])
      loss += sums["aux_loss"]
    return loss, sums

  (loss, sums), grads = accumulate(
    loss_fn,
    state.params,
    batch,
    key,
    options.num_microbatches,
    grad_shardings,
  )
  grad_norm = optax.tree.norm(grads)
  updates, opt_state = optax.with_extra_args_support(tx).update(
    grads, state.opt_state, state.params, step=state.step, **rates
  )
  params = optax.apply_updates(state.params, updates)

  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  params, opt_state = jax.tree.map(
    lambda new, old: jnp.where(finite, new, old),
    (params, opt_state),
    (state.params, state.opt_state),
  )
  sums |= (
    rates
    | pairs
    | {
      "loss": loss,
      "grad_norm": grad_norm,
      "param_norm": optax.tree.norm(state.params),
      "nonfinite": jnp.logical_not(finite).astype(jnp.int32),
      "subtask_weights": jnp.stack([jnp.float32(w) for w in subtask_weights]),
    }
  )
  new_state = state.replace(
    step=state.step + 1, params=params, opt_state=opt_state
  )
  return new_state, sums


class JittedStep:
  """A step compiled for a mesh: call it, or `lower` it to read its program.

  Both happen under the partitioner's mesh and rules, whatever is active
  outside.

  Attributes:
    arguments: what it passes after state and batch.
    function: what is compiled, without constraints on where gradients lie; None
      where nothing else is to be made of it.
  """

  def __init__(
    self,
    jitted: Any,
    partitioner: Partitioner,
    *arguments: Any,
    function: Callable[..., Any] | None = None,
  ):
    self._jitted = jitted
    self._partitioner = partitioner
    self.arguments = arguments
    self.function = function

  def __call__(self, state_or_params: Any, batch: Batch) -> Any:
    """Runs one step; the first call with a batch shape compiles."""
    with self._partitioner.activate():
      return self._jitted(state_or_params, batch, *self.arguments)

  def lower(self, state_or_params: Any, batch: Batch) -> jax.stages.Lowered:
    """The step's program for arguments like these (shapes will do)."""
    with self._partitioner.activate():
      return self._jitted.lower(state_or_params, batch, *self.arguments)

  def run_by(
    self, run: Callable[[Any, list[Any]], Any], state: Any, batch: Batch
  ) -> Any:
    """Calls `run` with the step's ClosedJaxpr and its flat arguments."""
    arguments = (state, batch, *self.arguments)
    with self._partitioner.activate():
      traced = self._jitted.trace(*arguments)
      return run(traced.jaxpr, jax.tree.leaves(arguments))


def jit_train_step(
  *,
  model: Model,
  tx: optax.GradientTransformation,
  options: StepOptions,
  partitioner: Partitioner,
  state_shardings: TrainState,
  base_key: jax.Array,
  adapted: tuple[Callable[[Any], Model], Any] | None = None,
) -> JittedStep:
  """`train_step` compiled: `(state, batch) -> (state, sums)`.

  The old state's memory is given to the new one (donated): do not use a state
  after stepping from it. The other arguments are those of `train_step`.

  Args:
    adapted: `(model_on, arrays)`: trains the model that `model_on(arrays)`
      makes, in place of `model`. The step does not change these arrays, which
      lie on the mesh and stay the caller's (they are not donated).
  """
  # Key and numbers are arguments, not constants of the program: another seed or
  # rate finds the same program in the compilation cache. So are the arrays of
  # `adapted`.
  impl = jax.random.key_impl(base_key)
  model_on, *frozen = adapted or (None,)

  def step_with_numbers(
    grad_shardings, state, batch, key_data, numbers, *frozen
  ):
    partitioner.check_batch_size(
      batch["decoder_target_tokens"].shape[0], options.num_microbatches
    )
    return train_step(
      state,
      batch,
      model=model_on(*frozen) if model_on else model,
      tx=tx,
      base_key=jax.random.wrap_key_data(key_data, impl=impl),
      options=options,
      numbers=numbers,
      grad_shardings=grad_shardings,
    )

  replicated = partitioner.replicated()
  jitted = jax.jit(
    functools.partial(step_with_numbers, state_shardings.params),
    in_shardings=(
      state_shardings,
      partitioner.batch_sharding(),
      replicated,
      replicated,
      *jax.tree.map(lambda array: array.sharding, frozen),
    ),
    out_shardings=(state_shardings, replicated),
    donate_argnums=0,
  )
  key_data = place(jax.random.key_data(base_key), replicated)
  numbers = place(jax.tree.map(np.float32, options.numbers()), replicated)
  function = functools.partial(step_with_numbers, None)
  return JittedStep(
    jitted, partitioner, key_data, numbers, *frozen, function=function
  )


def jit_eval_step(
  *,
  model: Model,
  partitioner: Partitioner,
  param_shardings: Any,
  num_subtasks: int = 1,
  logits_at_once: int | None = None,
) -> JittedStep:
  """Teacher-forced sums of a batch, compiled: `(params, batch) -> sums`.

  Without dropout; the sums are those of `losses.subtask_sums`.
  """

  def eval_step(params, batch):
    counted = losses.loss_mask(batch) > 0
    _, tokens = vocabulary_loss.weighted_loss(
      model.logits,
      params,
      model.hidden_states(params, batch),
      batch["decoder_target_tokens"],
      counted.astype(jnp.float32),
      counted,
      chunk=logits_at_once,
    )
    return losses.subtask_sums(tokens, batch, num_subtasks)

  jitted = jax.jit(
    eval_step,
    in_shardings=(param_shardings, partitioner.batch_sharding()),
    out_shardings=partitioner.replicated(),
  )
  return JittedStep(jitted, partitioner)
