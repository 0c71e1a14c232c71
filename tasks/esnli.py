"""e-SNLI with PaLM rationales: `esnli_dss` and its sisters.

Reads the official release from `data.DataOptions.data_dir` (or DSS_DATA_DIR)
when a dataset is asked for.
"""

from dss_jax.data.tasks import add_dss_tasks

add_dss_tasks("esnli")
