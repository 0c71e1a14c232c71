"""Options are read when asked for, from the innermost setter."""

from dss_jax import datasets
from dss_jax.data import options
from dss_jax.data.options import TaskOptions


def test_defaults_provider_and_override(monkeypatch):
  monkeypatch.setattr(options, "_provider", TaskOptions)
  assert options.current() == TaskOptions()
  assert options.current().vocabulary_name("taxonli") == "taxonli"
  assert options.current().vocabulary_name("cqa") == "bytes"
  half = TaskOptions(datasets.DataOptions(train_fraction=0.5))
  options.set_provider(lambda: half)
  assert options.current() is half
  named = TaskOptions(vocabulary="bytes:3")
  with options.using(named):
    assert options.current().vocabulary_name("taxonli") == "bytes:3"
    with options.using(half):
      assert options.current() is half
    assert options.current() is named
  assert options.current() is half
