"""`dss-jax export`: what it refuses, and what it writes."""

import importlib.util
import json

import command_line
import jax
import numpy as np
import pytest

from dss_jax import main
from dss_jax.pretrained import student_card, t5x_checkpoints
from dss_jax.students.export import formats


def _refused(capsys, *flags):
  assert main.main(["export", *flags]) == 2
  (line,) = capsys.readouterr().err.splitlines()[-1:]
  return line


@pytest.mark.parametrize(
  ("flag", "reason"),
  [
    ("--check=-1", "(--check)"),
    (
      "--min_agreement=1.5",
      "min_agreement is 1.5; it must be from 0 to 1, or None (--min_agreement)",
    ),
    ("--min_agreement=nan", "min_agreement is nan"),
    ("--num_beams=0", "num_beams is 0; it must be 1 or more (--num_beams)"),
    ("--num_beams=4", "belongs to the format stablehlo"),
    ("--quantization=int8", "belongs to the format ctranslate2"),
    ("--t5x_layout=orbax", "belongs to the format t5x"),
  ],
)
def test_flags_that_cannot_be_are_refused(tmp_path, capsys, flag, reason):
  flags = (f"--model_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}", flag)
  assert reason in _refused(capsys, *flags)


def test_what_is_in_the_way_is_reported_before_anything_is_read(
  tmp_path, capsys
):
  output = tmp_path / "out"
  output.mkdir()
  (output / "thesis.tex").write_text("x")
  flags = ("--model_dir=none", f"--output_dir={output}", "--overwrite")
  assert "no export wrote" in _refused(capsys, *flags)
  absent = f"--model_dir={tmp_path / 'none'}"
  flags = (absent, f"--output_dir={tmp_path / 'new'}", "--format=t5x")
  assert str(tmp_path / "none") in _refused(capsys, *flags)
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  ("name", "missing", "message"),
  [
    ("huggingface", {"safetensors"}, "needs safetensors"),
    ("huggingface", {"torch"}, "is checked with torch"),
    ("ctranslate2", {"ctranslate2"}, "needs ctranslate2"),
    ("onnx", {"onnxscript", "onnx"}, "needs onnx, onnxscript"),
  ],
)
def test_packages_that_are_missing_are_named(
  tmp_path, capsys, monkeypatch, name, missing, message
):
  found = importlib.util.find_spec

  def find_spec(package, *more):
    if package in {"torch", "transformers", "onnxruntime"} - missing:
      return object()  # as if they were here
    return None if package in missing else found(package, *more)

  monkeypatch.setattr(formats.importlib.util, "find_spec", find_spec)
  flags = ("--model_dir=none", f"--output_dir={tmp_path / 'out'}")
  line = _refused(capsys, *flags, f"--format={name}")
  assert message in line
  assert "pip install 'dss_jax[export]'" in line


RUN = [
  *command_line.GIN_FILES,
  *command_line.SMALL,
  "--gin.TRAIN_STEPS=2",
  "--gin.OPTIMIZER=@adafactor.Adafactor()",
]


@pytest.mark.slow
def test_a_run_is_exported_with_its_optimizers_state(
  tmp_path, capsys, monkeypatch
):
  one = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda *_: one)
  run, output = tmp_path / "run", tmp_path / "exported"
  assert main.main(["train", *RUN, f"--gin.MODEL_DIR={run}"]) == 0
  flags = [
    "export",
    f"--model_dir={run}",
    "--format=t5x",
    "--check=8",
    f"--output_dir={output}",
  ]
  capsys.readouterr()
  assert main.main(flags) == 0
  printed = capsys.readouterr().out
  assert "label, 8 test inputs: identical labels 8/8" in printed
  params, states, step = t5x_checkpoints.load_t5x(output)
  assert step == 2
  assert states is not None
  slots = states["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
  assert set(slots) == {"m", "v", "v_row", "v_col"}
  assert np.any(slots["v"] > 0)
  assert params["token_embedder"]["embedding"].shape == (208, 8)
  card = student_card.read(output)
  assert card is not None
  assert card.description == {
    "source": "run",
    "step": 2,
    "task": "taxonli_dss",
    "dataset": "taxonli",
    "metric": "accuracy",
  }
  assert (output / "spiece.model").is_file()
  readme = (output / "README.md").read_text()
  row = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
  assert f"| {row['value']:.4f} | 16 |" in readme
  assert str(tmp_path) not in readme
  # Again: not unless asked to, and then in its place.
  assert main.main(flags) == 2
  flags += ["--overwrite", "--t5x_layout=orbax", "--check=0"]
  assert main.main(flags) == 0
  assert "not checked" in capsys.readouterr().out
  again, _, _ = t5x_checkpoints.load_t5x(output)
  jax.tree.map(np.testing.assert_array_equal, again, params)
