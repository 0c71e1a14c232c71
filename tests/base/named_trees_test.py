"""Trees by their leaves' names."""

import jax.numpy as jnp
import numpy as np

from dss_jax.base import named_trees


def test_hash_sees_names_values_and_types_but_not_containers():
  tree = {"a": np.arange(3, dtype=np.int32), "b": {"c": np.float32(1)}}
  same = {"b": {"c": jnp.float32(1)}, "a": jnp.arange(3, dtype=jnp.int32)}
  assert named_trees.tree_hash(tree) == named_trees.tree_hash(same)
  for other in (
    {"a": tree["a"], "d": {"c": np.float32(1)}},
    {"a": tree["a"] + 1, "b": tree["b"]},
    {"a": tree["a"].astype(np.int64), "b": tree["b"]},
    {"a": tree["a"][None], "b": tree["b"]},
  ):
    assert named_trees.tree_hash(other) != named_trees.tree_hash(tree)
