"""The generated families: `kinds_dss`, `fits_dss` and so on, with sisters.

They need no files. Sizes, seed and control come from
`data.DataOptions.generated_*`.
"""

from dss_jax.data.tasks import add_dss_tasks
from dss_jax.datasets.families import FAMILIES

for name in FAMILIES:
  add_dss_tasks(name)
