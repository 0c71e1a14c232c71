"""Options are read when asked for, from the innermost setter."""

from dss_jax import datasets
from dss_jax.data.pairs import task_options
from dss_jax.data.pairs.task_options import TaskOptions


def test_defaults_provider_and_override(monkeypatch):
  monkeypatch.setattr(task_options, "_provider", TaskOptions)
  assert task_options.current() == TaskOptions()
  assert task_options.current().vocabulary_of("taxonli") == "taxonli"
  assert task_options.current().vocabulary_of("cqa") == "bytes"
  half = TaskOptions(datasets.DataOptions(train_fraction=0.5))
  task_options.set_provider(lambda: half)
  assert task_options.current() is half
  named = TaskOptions(vocabulary="bytes:3")
  with task_options.using(named):
    assert task_options.current().vocabulary_of("taxonli") == "bytes:3"
    with task_options.using(half):
      assert task_options.current() is half
    assert task_options.current() is named
  assert task_options.current() is half
