"""Plans: as values, as text, and from the command line."""

import json
import subprocess
import sys

import jax
import pytest

from dss_jax import main
from dss_jax.models import lora
from dss_jax.models.partitioning import Partitioner
from dss_jax.planning import memory, plan_tables, run_plan

ONE = Partitioner(devices=tuple(jax.devices()[:1]))
FILES = ("models/taxonli", "runs/taxonli", "data/taxonli", "methods/dss")
TRAIN = (
  "train",
  *(f"--gin_file={name}.gin" for name in FILES),
  "--gin.TRAIN_STEPS=10",
  "--gin.data.DataOptions.taxonli_num_train=64",
)


class TestWithoutCompiling:
  def test_the_largest_batch_just_fits(self, run):
    planned = run("tiny", (32, 24, 16), num_microbatches=2)
    limit = 64 * 2**20
    found = run_plan.make_plan(planned, device_memory=limit, compiling=False)
    largest = found.largest
    assert largest is not None
    assert not largest.compiled
    assert largest.rows % 16 == 0  # devices times micro-batches
    assert largest.records == 2 * largest.rows
    assert 0.95 * limit < largest.bytes <= limit
    # By the formula 16 rows more would not fit.
    formula = planned.formula()
    more = largest.rows + 16
    batches = (1 + run_plan.WAITING_BATCHES) * memory.bytes_per_device(
      planned.batch(more)
    )
    state = found.parameters + found.optimizer
    assert state + batches + formula.bytes(more // 16) > limit

  def test_none_fits(self, run):
    planned = run("tiny")
    found = run_plan.make_plan(planned, device_memory=2**20, compiling=False)
    assert found.largest is not None
    assert found.largest.rows == 0
    assert "none fits into 1.0 MiB" in plan_tables.as_text(found)

  def test_adapters(self, run):
    """A frozen base is whole; optimizer state and gradients are small."""
    planned = run("tiny", partitioner=ONE)
    adapters = lora.LoraOptions(rank=2)
    adapted = run("tiny", partitioner=ONE, adapters=adapters)
    found = run_plan.make_plan(adapted, compiling=False)
    assert found.frozen == memory.bytes_per_device(planned.state.params)
    assert found.gradients == found.parameters < found.frozen / 10
    assert "frozen parameters" in plan_tables.as_text(found)


@pytest.mark.parametrize("mebibytes", [16, 32, 64, 128])
def test_a_batch_that_is_known_to_fit_is_never_lost(
  run, monkeypatch, mebibytes
):
  """Though the compiler's figures grow as no formula foretells."""
  planned = run("tiny", (32, 24, 16), partitioner=ONE)
  formula = planned.formula()

  def compile_for(planner, rows):
    size = round(formula.bytes(rows) * (1 + (rows / 60) ** 6))
    return planner._compiled.setdefault(rows, size)

  monkeypatch.setattr(run_plan._Planner, "_compile", compile_for)
  planner = run_plan._Planner(planned, compiling=True)
  largest = planner.largest(mebibytes * 2**20, state=2**20)
  assert largest.compiled
  assert largest.rows >= (24 if mebibytes == 16 else 32)
  assert largest.bytes <= mebibytes * 2**20


def test_a_batch_that_is_a_hair_too_large_is_followed_by_one_that_fits(
  run, monkeypatch
):
  """Large batches take a constant that the formula does not know of."""
  planned = run("tiny", (32, 24, 16), partitioner=ONE)
  formula = planned.formula()
  limit = 2**30

  def compile_for(planner, rows):
    much = rows > planned.shape.rows
    size = (0.9 if much else 0.7) * formula.bytes(rows) + 0.1 * limit * much
    return planner._compiled.setdefault(rows, round(size))

  monkeypatch.setattr(run_plan._Planner, "_compile", compile_for)
  largest = run_plan._Planner(planned, compiling=True).largest(
    limit, state=2**20
  )
  assert largest.compiled
  assert 0.95 * limit < largest.bytes <= limit


def test_where_no_batch_is_proved_to_fit_one_is_proposed(run, monkeypatch):
  """The run's own is too large, and so is all that is compiled after it."""
  planned = run("tiny", (4096, 24, 16), partitioner=ONE)
  formula = planned.formula()
  limit = 2**27

  def compile_for(planner, rows):
    size = formula.bytes(rows) + round(0.3 * limit)
    return planner._compiled.setdefault(rows, size)

  monkeypatch.setattr(run_plan._Planner, "_compile", compile_for)
  largest = run_plan._Planner(planned, compiling=True).largest(
    limit, state=2**20
  )
  assert not largest.compiled
  assert 0 < formula.bytes(largest.rows) + 0.3 * limit < 1.1 * limit


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
  assert found.temporaries.compiled == analysis.temp_size_in_bytes
  assert found.largest is not None
  assert found.largest.compiled
  assert found.largest.rows >= 32
  program = planned.compile(found.largest.rows)
  again = program.memory_analysis()
  assert again is not None
  batches = 4 * memory.bytes_per_device(planned.batch(found.largest.rows))
  assert found.largest.bytes == (
    found.parameters + found.optimizer + batches + again.temp_size_in_bytes
  )
  assert 0.8 * limit < found.largest.bytes <= limit
  text = plan_tables.as_text(found)
  for words in ("data 4 x model 2", "XLA's figure (cpu)", "all-gather"):
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
      (["--plan", "--plan_devices=0"], "--plan_devices is 0"),
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
    assert "mesh: data 8 x model 1" in text
    assert "32 records in 24 rows of" in text
    assert "temporaries" in text
    assert "largest batch: " in text
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
    assert values["mesh"] == {"data": 2, "model": 2}
    assert values["num_microbatches"] == 2
    assert values["largest_batch"]["compiled"]
    assert values["collectives"]["all-gather"]["bytes"] > 0
    assert not list(tmp_path.iterdir())
