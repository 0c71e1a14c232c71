"""taxonli, the built-in dataset: `taxonli_dss` and its sisters.

Needs no files. Its own vocabulary is the default; sizes, seed and control come
from `data.DataOptions.taxonli_*`.
"""

from dss_jax.data.tasks import add_dss_tasks

add_dss_tasks("taxonli")
