"""Plans: as values, as text, and from the command line."""

import json
import subprocess
import sys

import jax
import pytest

from dss_jax import main
from dss_jax.models import lora
from dss_jax.models.partitioning import Partitioner
from dss_jax.planning import abstract_run, plan_tables, run_plan
from dss_jax.planning.abstract_run import bytes_per_device

ONE = Partitioner(devices=tuple(jax.devices()[:1]))
FILES = ("models/taxonli", "runs/taxonli", "data/taxonli", "methods/dss")
TRAIN = (
  "train",
  *(f"--gin_file={name}.gin" for name in FILES),
  "--gin.TRAIN_STEPS=10",
  "--gin.data.DataOptions.taxonli_num_train=64",
)


class TestWithoutCompiling:
  def test_exact_bytes(self, run):
    planned = run("tiny", (32, 24, 16), num_microbatches=2)
    found = run_plan.make_plan(planned, device_memory=2**26, compiling=False)
    assert found.parameters == bytes_per_device(planned.state.params)
    assert found.gradients == found.parameters
    assert found.optimizer >= 2 * found.parameters  # AdamW
    assert found.step is found.total is found.largest is None
    text = plan_tables.as_text(found)
    assert "temporaries: not known without compiling" in text
    assert "largest batch: not searched for" in text
    assert plan_tables.as_json(found)["bytes"]["temporaries"] is None

  def test_adapters(self, run):
    """A frozen base is whole; optimizer state and gradients are small."""
    planned = run("tiny", partitioner=ONE)
    adapters = lora.LoraOptions(rank=2)
    adapted = run("tiny", partitioner=ONE, adapters=adapters)
    found = run_plan.make_plan(adapted, compiling=False)
    assert found.frozen == bytes_per_device(planned.state.params)
    assert found.gradients == found.parameters < found.frozen / 10
    assert "frozen parameters" in plan_tables.as_text(found)


def test_none_fits(run):
  """Found without compiling for a batch: the state alone is too large."""
  found = run_plan.make_plan(run("tiny"), device_memory=2**18)
  assert found.largest is not None
  assert found.largest.rows == 0
  assert "of 256.0 KiB" in plan_tables.as_text(found)


def test_a_step_that_the_compiler_refuses(run, monkeypatch):
  """TPU compilers refuse what does not fit, and say what it would need."""

  def refuse(planned, rows=None):
    del planned, rows
    raise jax.errors.JaxRuntimeError(
      "RESOURCE_EXHAUSTED: Used 21.50G of 15.75G hbm"
    )

  monkeypatch.setattr(abstract_run.AbstractRun, "compile", refuse)
  found = run_plan.make_plan(run("tiny"), device_memory=2**34, attempts=1)
  assert found.step is None
  assert found.largest is not None
  assert found.largest.rows == 0
  assert len(found.largest.tried) == 2
  text = plan_tables.as_text(found)
  assert "Used 21.50G of 15.75G hbm" in text
  assert "none of those compiled (32, " in text
  assert "RESOURCE_EXHAUSTED" in plan_tables.as_json(found)["refusal"]


@pytest.mark.thorough
def test_micro_batches_and_rematerialisation_trade_memory(run):
  """As docs/mesh.md says: both take less, most of all together."""

  def temporaries(**changes):
    planned = run("bench", (32, 128, 64), partitioner=ONE, **changes)
    found = run_plan.make_plan(planned, attempts=0)
    assert found.step is not None
    assert found.step.temporaries is not None
    return found.step.temporaries

  plain = temporaries()
  assert temporaries(num_microbatches=4) < 0.45 * plain
  minimal = temporaries(scan_layers=True, remat_policy="minimal")
  full = temporaries(scan_layers=True, remat_policy="full")
  assert full < 0.9 * minimal
  assert minimal < 0.75 * plain
  both = temporaries(scan_layers=True, remat_policy="full", num_microbatches=4)
  assert both < 0.35 * plain


@pytest.mark.thorough
def test_compiled_plan_of_eight_devices(run):
  planned = run(
    "tiny",
    (32, 24, 16),
    partitioner=Partitioner(2, fully_sharded=True, fully_sharded_min_size=0),
    scan_layers=True,
  )
  limit = 16 * 2**20
  found = run_plan.make_plan(planned, device_memory=limit)
  analysis = planned.compile().memory_analysis()
  assert analysis is not None
  # All but features that the step does not read; and the dropout key.
  arguments = found.parameters + found.optimizer + found.batch
  assert 0 <= arguments - analysis.argument_size_in_bytes < found.batch
  assert found.step is not None
  assert found.step.temporaries == analysis.temp_size_in_bytes
  assert found.largest is not None
  assert found.largest.rows >= 32
  assert found.largest.rows in found.largest.tried
  program = planned.compile(found.largest.rows)
  again = program.memory_analysis()
  assert again is not None
  batches = 4 * bytes_per_device(planned.batch(found.largest.rows))
  assert found.largest.bytes == (
    found.parameters + found.optimizer + batches + again.temp_size_in_bytes
  )
  assert 0.8 * limit < found.largest.bytes <= limit
  text = plan_tables.as_text(found)
  for words in (
    "data 4 x model 2",
    "the compiler's figure (cpu)",
    "all-gather",
  ):
    assert words in text
  values = plan_tables.as_json(found)
  json.dumps(values)
  assert values["collectives"]["all-reduce"]["bytes"] > 0
  assert values["largest_batch"]["rows"] == found.largest.rows


class TestCommand:
  def _fails(self, capsys, *flags):
    assert main.main([*TRAIN, "--gin.MODEL_DIR=x", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error

  @pytest.mark.parametrize(
    ("flags", "words"),
    [
      (["--plan_memory=80GiB"], "--plan_memory says how to plan: add --plan"),
      (["--plan_devices=8"], "--plan_devices says"),
      (["--plan", "--plan_memory=much"], "such as 80GiB"),
      (["--plan_topology=v5e:2x2"], "--plan_topology says"),
      (["--plan_attempts=0"], "--plan_attempts says"),
      (["--plan", "--plan_attempts=-1"], "plan_attempts is -1"),
      (["--plan", "--plan_devices=0"], "plan_devices is 0"),
      (
        ["--plan", "--plan_devices=4", "--plan_topology=v5e:2x2"],
        "leave out one of them",
      ),
      (["--plan", "--plan_devices=2", "--multiprocess"], "--multiprocess"),
    ],
  )
  def test_flags_that_do_not_fit(self, flags, words, capsys):
    assert words in self._fails(capsys, *flags)

  def test_a_configuration_that_cannot_run(self, capsys):
    error = self._fails(
      capsys, "--plan", "--plan_uncompiled", "--gin.BATCH_SIZE=12"
    )
    assert "BATCH_SIZE" in error

  def test_plans_and_writes_nothing(self, tmp_path, capsys):
    folder = tmp_path / "run"
    flags = ["--plan", "--plan_uncompiled", "--plan_memory=1GiB"]
    assert main.main([*TRAIN, f"--gin.MODEL_DIR={folder}", *flags]) == 0
    text = capsys.readouterr().out
    assert "mesh: replica 1 x data 8 x model 1" in text
    assert "32 records in 24 rows of" in text
    assert "temporaries" in text
    assert "largest batch: " in text
    assert "collectives: not known" in text
    assert not list(tmp_path.iterdir())

  @pytest.mark.slow
  def test_devices_that_are_not_there(self, tmp_path):
    """In a process of its own, with TensorFlow and SeqIO blocked."""
    flags = [
      f"--gin.MODEL_DIR={tmp_path / 'run'}",
      "--gin_file=partitioning/fully_sharded.gin",
      "--gin.partitioning.PjitPartitioner.fully_sharded_min_size=0",
      "--gin.partitioning.PjitPartitioner.num_partitions=2",
      "--gin.NUM_MICROBATCHES=2",
      "--gin.network.T5Config.num_encoder_layers=1",
      "--gin.network.T5Config.num_decoder_layers=1",
      "--plan",
      "--plan_devices=4",
      "--plan_memory=1GiB",
      "--plan_json",
    ]
    program = (
      "import sys\n"
      "for name in ('tensorflow', 'seqio'): sys.modules[name] = None\n"
      "from dss_jax import main\n"
      f"sys.exit(main.main({[*TRAIN, *flags]!r}))\n"
    )
    ended = subprocess.run(
      [sys.executable, "-c", program],
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    values = json.loads(ended.stdout)
    assert values["simulated"]
    assert values["mesh"] == {"replica": 1, "data": 2, "model": 2}
    assert values["num_microbatches"] == 2
    assert values["largest_batch"]["rows"] in values["largest_batch"]["tried"]
    assert values["collectives"]["all-gather"]["bytes"] > 0
    assert not list(tmp_path.iterdir())
