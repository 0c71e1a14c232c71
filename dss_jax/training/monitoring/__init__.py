"""Watching a run: metrics, progress, time, compilations, traces and NaNs."""

from dss_jax.training.monitoring.monitor import Monitor

__all__ = ["Monitor"]
