"""ANLI rounds 1 to 3: `anli1_dss` … `anli3_dss`.

The paper trains on round 1, the only one that was released with PaLM's
rationales. Reads the official release, or files of its layout, from
`data.DataOptions.data_dir` (or DSS_DATA_DIR) when a dataset is asked for.
"""

from dss_jax.data.tasks import add_dss_tasks

for _round in (1, 2, 3):
  add_dss_tasks(f"anli{_round}")
