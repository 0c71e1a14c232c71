"""Where arrays live on a mesh: the `Partitioner`, and moving arrays there."""

from dss_jax.models.partitioning.logical_axes import standard_logical_axis_rules
from dss_jax.models.partitioning.partitioner import Partitioner
from dss_jax.models.partitioning.placement import place, to_host

__all__ = ["Partitioner", "place", "standard_logical_axis_rules", "to_host"]
