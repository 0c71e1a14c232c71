"""CommonsenseQA (CoS-E v1.11) with PaLM rationales: `cqa_dss` and its sisters.

Reads the official release from `data.DataOptions.data_dir` (or DSS_DATA_DIR)
when a dataset is asked for. Validation is cut from the training data.
"""

from dss_jax.data.tasks import add_dss_tasks

add_dss_tasks("cqa")
