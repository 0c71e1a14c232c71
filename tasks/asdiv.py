"""ASDiv: `asdiv_dss_teacher` and its sisters.

Reads `asdiv/ASDiv.xml` as its authors publish it, or files in the layout of the
official release, from `data.DataOptions.data_dir` (or DSS_DATA_DIR) when a
dataset is asked for. It has no gold labels here: the paper adds it to SVAMP
with the teacher's (gin/methods/extra_records.gin).
"""

from dss_jax.data.tasks import add_dss_tasks

add_dss_tasks("asdiv")
