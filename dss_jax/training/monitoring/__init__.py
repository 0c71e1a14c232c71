"""What a run says while it goes on: metrics.jsonl, TensorBoard, progress."""

from dss_jax.base.progress import Progress
from dss_jax.training.monitoring.metrics_file import (
  METRICS_FILE,
  TIME,
  MetricsLog,
  metrics_hash,
)
from dss_jax.training.monitoring.run_log import (
  RunLog,
  step_values,
  summary_line,
)
from dss_jax.training.monitoring.tensorboard_log import TensorBoardLog

__all__ = [
  "METRICS_FILE",
  "TIME",
  "MetricsLog",
  "Progress",
  "RunLog",
  "TensorBoardLog",
  "metrics_hash",
  "step_values",
  "summary_line",
]
