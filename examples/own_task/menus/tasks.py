"""Registers the dataset `menus`: with dss_jax, and its tasks with SeqIO.

`MIXTURE_OR_TASK_MODULE = 'menus.tasks'` in menus.gin has it imported. Nothing
is read before somebody asks for records.
"""

import pathlib

from dss_jax.data import tasks

DATA = pathlib.Path(__file__).parents[1] / "data"
SPLITS = ("train", "validation", "test")

tasks.add_dss_tasks(
  "menus",
  {split: DATA / f"{split}.csv" for split in SPLITS},
  field_mapping={"input": "menu", "label": "variety"},
  labels=("good", "fair", "poor"),
)
