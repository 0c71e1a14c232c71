"""Watching a run: metrics, progress, time, compilations, traces and NaNs."""

from dss_jax.training.monitoring.metrics_file import METRICS_FILE, metrics_hash
from dss_jax.training.monitoring.monitor import Monitor

__all__ = ["METRICS_FILE", "Monitor", "metrics_hash"]
