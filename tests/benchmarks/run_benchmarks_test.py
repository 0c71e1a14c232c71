"""The benchmarks of whole runs: start-up, and where steps' time goes."""

import json

import jax
import pytest

from dss_jax.cli import gin_config

SMALL = (
  "--gin.data.DataOptions.taxonli_num_train=64",
  "--gin.data.DataOptions.taxonli_num_validation=16",
  "--gin.data.DataOptions.taxonli_num_test=16",
  "--gin.network.T5Config.emb_dim=8",
  "--gin.network.T5Config.num_encoder_layers=1",
  "--gin.network.T5Config.num_decoder_layers=1",
)


@pytest.fixture(autouse=True)
def no_bindings_left():
  yield
  gin_config.clear()


@pytest.mark.slow
def test_the_phases_of_a_start_are_told(load_benchmark, tmp_path):
  module = load_benchmark("startup")
  file = tmp_path / "startup.json"
  module.main(
    ["--repeats=1", "--caches", "cold", "--json", str(file), "--", *SMALL]
  )
  found = json.loads(file.read_text(encoding="utf-8"))
  (run,) = found["cold"]
  assert set(run) == set(module.PHASES)
  for phase in ("imports", "data", "parameters", "trace", "compile"):
    assert run[phase] > 0, phase
  assert len(found["help_s"]) == 1


@pytest.mark.slow
def test_the_time_of_steps_is_told(load_benchmark, tmp_path, monkeypatch):
  one = jax.devices()[:1]  # whose programs compile in half the time
  monkeypatch.setattr(jax, "devices", lambda *_: one)
  module = load_benchmark("step_breakdown")
  file = tmp_path / "steps.json"
  flags = [*module.RUN, *SMALL, "--gin.EVAL_PERIOD=12", "--gin.STATS_PERIOD=4"]
  sizes = ["--steps=24", "--turns=1", "--turn_steps=4"]
  module.benchmark([*sizes, "--json", str(file), "--", *flags])
  found = json.loads(file.read_text(encoding="utf-8"))
  assert found["evaluations"] == 2
  assert found["recompilations"] == 0
  assert found["ms_per_step"]["step"] > 0
  assert sum(found["shares"].values()) == pytest.approx(1)
  assert {len(each) for each in found["seconds_a_step"].values()} == {1}


def test_a_mistake_is_told_in_a_line(load_benchmark, tmp_path):
  prepare, measuring = load_benchmark("prepare"), load_benchmark("measuring")
  missing = str(tmp_path / "missing")
  with pytest.raises(SystemExit, match=f"{missing}[^\\n]*$"):
    measuring.run(lambda: prepare.main(["--data_dir", missing]))
