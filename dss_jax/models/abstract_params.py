"""Parameters without their numbers: shapes, types and shardings."""

import weakref
from typing import Any

import jax

# Tracing a transformer takes a tenth of a second and more, and a run that
# starts asks for the shapes of the same one half a dozen times.
_param_shapes: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def param_shapes(model: Any) -> Any:
  """Shapes and types of a model's parameters, without any memory."""
  if model not in _param_shapes:
    _param_shapes[model] = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree.map(lambda shape: shape, _param_shapes[model])


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """Shapes that say where their arrays live, for restoring onto devices."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )
