"""ANLI rounds 1 to 3 with PaLM rationales: `anli1_dss` … `anli3_dss`.

The paper trains on round 1. Reads the official release from
`DataOptions.data_dir` (or DSS_DATA_DIR) when a dataset is asked for.
"""

from dss_jax.data.tasks import add_dss_tasks

for _round in (1, 2, 3):
  add_dss_tasks(f"anli{_round}")
