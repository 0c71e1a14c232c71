"""Sweeps of small students, and of none at all, by the command line."""

import json
import pathlib
import sys
from typing import Any

import pytest

from dss_jax import main
from dss_jax.experiments.sweeps import cell_process

FAKE_TRAINING = pathlib.Path(__file__).with_name("fake_training.py")
# Bindings of a student and records so small that a run takes a moment.
SMALL_BINDINGS = {
  "data.DataOptions.taxonli_num_train": 64,
  "data.DataOptions.taxonli_num_validation": 16,
  "data.DataOptions.taxonli_num_test": 16,
  "network.T5Config.emb_dim": 8,
  "network.T5Config.num_encoder_layers": 1,
  "network.T5Config.num_decoder_layers": 1,
  "network.T5Config.dropout_rate": 0.0,
}
FIELDS: dict[str, Any] = {
  "gin_files": ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"],
  "bindings": SMALL_BINDINGS,
  "axes": {"method": ["standard", "dss"], "seed": [0, 1]},
  "steps": 4,
  "looks": 2,
}


def write(path: pathlib.Path, **changes: Any) -> pathlib.Path:
  """Writes the gin file of a small sweep, with some fields changed."""
  fields = FIELDS | changes
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    "".join(f"sweep.Sweep.{name} = {v!r}\n" for name, v in fields.items()),
    encoding="utf-8",
  )
  return path


class Sweeper:
  """Runs sweeps in one output folder, with training faked.

  Attributes:
    output_dir: of the sweeps.
  """

  def __init__(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    self.output_dir, self._capsys = folder, capsys

  def __call__(self, file: pathlib.Path, *more: str) -> tuple[int, str]:
    """Runs a sweep; returns its status and all that it said."""
    argv = ["sweep", str(file), f"--output_dir={self.output_dir}", *more]
    status = main.main(argv)
    said = self._capsys.readouterr()
    return status, said.out + said.err

  def results(self, name: str = "tiny") -> list[dict[str, Any]]:
    """The rows of a sweep's results.jsonl."""
    text = (self.output_dir / name / "results.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]

  def grid(self, name: str = "tiny") -> dict[str, Any]:
    """A sweep's grid.json."""
    return json.loads((self.output_dir / name / "grid.json").read_text("utf-8"))

  def starts(self) -> int:
    """How often training was started in all cells."""
    found = self.output_dir.glob("cells/*/starts")
    return sum(len(path.read_text().splitlines()) for path in found)


@pytest.fixture
def sweeper(tmp_path, capsys, monkeypatch) -> Sweeper:
  """Runs sweeps whose training is faked."""
  command = (sys.executable, str(FAKE_TRAINING))
  monkeypatch.setattr(cell_process, "COMMAND", command)
  return Sweeper(tmp_path / "out", capsys)
