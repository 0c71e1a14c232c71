"""Registered names, put together and taken apart."""

import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import task_names
from dss_jax.data.pairs.subtasks import METHODS


@pytest.mark.parametrize("source", ["gold", "teacher"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", ["svamp", "anli1"])
def test_names_are_taken_apart_as_they_are_put_together(
  dataset, method, source
):
  name = task_names.task_name(dataset, method, source)
  parsed = task_names.parse_task_name(name)
  assert parsed == (dataset, METHODS[method], source)
  assert str(parsed) == name


def test_names_of_others_are_not_ours():
  for name in ("glue_label", "svamp", "svamp_", "svamp_dss_student", "dss"):
    assert task_names.parse_task_name(name) is None
  with pytest.raises(
    UserError, match=r"glue_label.*svamp.*dss_paired"
  ) as raised:
    task_names.get_task("glue_label")
  assert "DatasetConfig.mixture_or_task_name" in raised.value.fields


@pytest.mark.parametrize("name", ["a-b", "a/b", "", "x_label", "x_teacher"])
def test_dataset_names_that_would_confuse_are_refused(name):
  with pytest.raises(UserError, match="cannot name a dataset"):
    task_names.check_dataset_name(name)


def test_every_dataset_has_a_usable_name():
  for name in datasets.names():
    task_names.check_dataset_name(name)
