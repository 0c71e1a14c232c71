"""Cells on a Ray cluster of this machine, where Ray is installed."""

import importlib.util
import json
import os

import pytest
import small_sweeps

HAVE_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def tiny(tmp_path):
  return small_sweeps.write(tmp_path / "tiny.gin")


@pytest.mark.skipif(HAVE_RAY, reason="Ray is installed")
def test_without_ray_the_user_is_told_what_to_install(tiny, sweeper):
  status, said = sweeper(tiny, "--engine=ray")
  assert status == 2
  assert "pip install 'dss_jax[ray]'" in said
  assert "(--engine)" in said


@pytest.fixture
def cluster(monkeypatch):
  ray = pytest.importorskip("ray")
  here = os.path.dirname(small_sweeps.__file__)
  paths = [os.getcwd(), here, os.environ.get("PYTHONPATH", "")]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
  yield ray
  ray.shutdown()


def test_cells_are_tasks_and_crashes_are_tried_again(
  tiny, sweeper, cluster, monkeypatch
):
  failures = {"dss 0": "crash once", "dss 1": "diverge"}
  monkeypatch.setenv("FAKE_FAILURE", json.dumps(failures))
  status, said = sweeper(tiny, "--engine=ray", "--workers=2")
  assert status == 1
  assert "Ray task 0" in said
  assert "dss seed=0: some library: aborted; tried again" in said
  assert "dss seed=1: diverged" in said
  assert [row["seed"] for row in sweeper.results()] == [0, 0, 1, 1, 0, 0]
  assert sweeper.starts() == 5
