"""gin/paper: the paper's numbers, and runs of each recipe with a tiny student."""

import itertools
import json

import command_line
import pytest

from dss_jax import main
from dss_jax.cli import gin_config

SIZES = ("t5_base", "t5_large", "t5_xxl")
ROWS = ("standard", "single_task", "dss_palm", "dss_gpt_neox")
# A random start, in bytes: no checkpoint is here.
OFFLINE = ("INITIAL_CHECKPOINT_PATH = None", "VOCABULARY = 'bytes'")

# Appendix A.1: records a batch, steps; and the public checkpoint's sizes:
# parameters, layers, embedding.
PAPER = {
  "t5_base": (64, 10_000, "google/t5-v1_1-base", 12, 768),
  "t5_large": (64, 10_000, "google/t5-v1_1-large", 24, 1024),
  "t5_xxl": (32, 4_000, "google/t5-v1_1-xxl", 24, 4096),
}
# The row's method, and who wrote its rationales.
METHODS = {
  "standard": ("svamp_standard", "palm"),
  "single_task": ("svamp_rationale_then_label", "palm"),
  "dss_palm": ("svamp_dss_paired", "palm"),
  "dss_gpt_neox": ("svamp_dss_paired", "gpt-neox"),
}


@pytest.fixture(autouse=True)
def _forget():
  yield
  gin_config.clear()


def _files(size: str, row: str) -> list[str]:
  return ["data/svamp.gin", f"paper/{size}.gin", f"paper/{row}.gin"]


@pytest.mark.parametrize(("size", "row"), [*itertools.product(SIZES, ROWS)])
def test_a_recipe_says_what_the_paper_says(size, row):
  gin_config.parse(_files(size, row), ["MODEL_DIR = 'x'", *OFFLINE])
  config = gin_config.instance("train.train")
  records, steps, _, layers, emb_dim = PAPER[size]
  data = config.train_dataset_cfg
  assert data.records_per_batch == records
  assert data.batch_size is None
  assert config.total_steps == steps
  assert data.mixture_or_task_name == METHODS[row][0]
  assert data.data.rationale_source == METHODS[row][1]
  assert dict(data.task_feature_lengths or {}) == {
    "inputs": 1024, "targets": 256,
  }  # fmt: skip
  assert (data.data.split_policy, data.data.parser) == ("official", "official")
  method = data.method
  assert (method.label_prefix, method.rationale_prefix) == (
    "predict: ",
    "explain: ",
  )
  assert method.rationale_filter == "all"
  assert method.unreadable_labels == "blank"
  assert config.objective.alpha == 0.5
  assert config.objective.normalizer == "subtask_tokens"
  assert (config.objective.z_loss, config.objective.label_smoothing) == (0, 0)
  # Linear to zero, without warm-up: what the official Trainer does.
  for step in (0, steps // 2, steps - 1):
    expected = 5e-5 * (1 - step / steps)
    assert float(config.learning_rate_fn(step)) == pytest.approx(
      expected, abs=1e-8
    )
  assert config.optimizer.clip_norm == 1.0
  network = config.model.config
  assert network.dtype == "float32"
  assert network.num_encoder_layers == network.num_decoder_layers == layers
  assert network.emb_dim == emb_dim
  assert network.dropout_rate == 0.1
  assert config.partitioner.fully_sharded == (size == "t5_xxl")


@pytest.mark.parametrize("size", SIZES)
def test_a_recipe_begins_with_the_public_checkpoint(size):
  text = (gin_config.PACKAGED_FOLDER / f"paper/{size}.gin").read_text()
  assert f"INITIAL_CHECKPOINT_PATH = '{PAPER[size][2]}'" in text


def test_a_recipe_without_checkpoint_and_vocabulary_asks_for_one():
  gin_config.parse(
    _files("t5_base", "standard"),
    ["MODEL_DIR = 'x'", "INITIAL_CHECKPOINT_PATH = None"],
  )
  with pytest.raises(ValueError, match="VOCABULARY"):
    gin_config.instance("train.train")


@pytest.mark.thorough
@pytest.mark.parametrize(
  ("size", "row"),
  [
    ("t5_base", "dss_palm"),
    ("t5_xxl", "dss_gpt_neox"),
    ("t5_base", "standard"),
    ("t5_base", "single_task"),
    ("t5_large", "dss_palm"),
  ],
)
def test_a_recipe_runs(fixtures, tmp_path, monkeypatch, size, row):
  """On a few records in the released layout, with a scaled-down student."""
  _run(fixtures / "release", tmp_path, monkeypatch, size, row)


@pytest.mark.shared
@pytest.mark.thorough
@pytest.mark.parametrize("row", ["standard", "single_task", "dss_palm"])
def test_a_recipe_runs_on_the_released_data(
  shared_data, tmp_path, monkeypatch, row
):
  folder = shared_data / "dss_release"
  _run(
    folder,
    tmp_path,
    monkeypatch,
    "t5_base",
    row,
    # In bytes, 32 labels of single_task would be beyond the 256 tokens.
    f"--gin.VOCABULARY={shared_data / 'dss_spm.model'}:100",
    "--gin.network.T5Config.vocab_size=8192",
    train_examples=720,
  )


def _run(data, folder, monkeypatch, size, row, *more, train_examples=12):
  command_line.use_one_device(monkeypatch)
  flags = [
    *(f"--gin_file={name}" for name in _files(size, row)),
    *(f"--gin.{text.replace(' = ', '=')}" for text in OFFLINE),
    *(
      f"--gin.network.T5Config.{name}={value}"
      for name, value in {
        "emb_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 16,
        "num_encoder_layers": 1, "num_decoder_layers": 1, "vocab_size": 384,
        "dropout_rate": 0.0,
      }.items()
    ),
    "--gin.RECORDS_PER_BATCH=4",
    "--gin.TRAIN_STEPS=3",
    "--gin.EVAL_STEPS=0",
    "--gin.EVAL_MAX_EXAMPLES=2",
    *more,
  ]  # fmt: skip
  run = folder / "run"
  assert (
    main.main(["train", *flags, f"--data_dir={data}", f"--model_dir={run}"])
    == 0
  )
  results = [
    json.loads(line) for line in (run / "results.jsonl").read_text().split("\n")
    if line
  ]  # fmt: skip
  task, source = METHODS[row]
  for result in results:
    assert f"svamp_{result['method']}" == task
    assert result["steps"] == 3
    assert result["rationale_source"] == (None if row == "standard" else source)
    assert result["train_examples"] == train_examples
  assert {result["split"] for result in results} == {"validation", "test"}
