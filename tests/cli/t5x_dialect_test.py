"""T5X's gin files: every line to change is named, and what is left runs."""

import re

import pytest

from dss_jax.base.errors import UserError
from dss_jax.cli import gin_config, gin_registry, t5x_dialect

# As users of T5X write them; the numbers are the lines that must change.
FINETUNE = """\
from __gin__ import dynamic_registration
import __main__ as train_script
import seqio
from t5x import models
from t5x import utils

include 't5x/examples/t5/t5_1_1/small.gin'
include 't5x/configs/runs/finetune.gin'

MIXTURE_OR_TASK_NAME = 'taxonli_dss'
TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 64}
TRAIN_STEPS = 1_000_010  # 1,000,000 of them are the checkpoint's
BATCH_SIZE = 16
LOSS_NORMALIZING_FACTOR = 233472
EVALUATOR_NUM_EXAMPLES = 100

train_script.train:
  eval_period = 5
  eval_steps = 3
  infer_eval_dataset_cfg = @infer_eval/utils.DatasetConfig()
infer_eval/utils.DatasetConfig:
  batch_size = 64
  seed = 42
train/utils.DatasetConfig:
  shuffle = True
  pack = True
models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 4
seqio.Evaluator:
  logger_cls = [@seqio.JSONLogger]
  num_examples = None
utils.SaveCheckpointConfig.keep = 3
trainer.Trainer.num_microbatches = 2
"""
LINES = [1, 2, 3, 4, 5, 7, 8, 12, 15, 17, 19, 20, 21, 25, 27, 28, 32]

# The same, as the messages say.
HERE = """\
include 'models/t5_1_1/small.gin'
include 'runs/finetune.gin'

MIXTURE_OR_TASK_NAME = 'taxonli_dss'
TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 64}
TRAIN_STEPS = 10
BATCH_SIZE = 16
LOSS_NORMALIZING_FACTOR = 233472
EVAL_MAX_EXAMPLES = 100
EVAL_STEPS = 3
NUM_MICROBATCHES = 2
decoding.DecodeOptions.strategy = 'beam'
decoding.DecodeOptions.num_beams = 4

train.train:
  eval_period = 5
train/utils.DatasetConfig:
  pack = True
utils.SaveCheckpointConfig.keep = 3
"""


def _refused(path, text):
  path.write_text(text, encoding="utf-8")
  with pytest.raises(UserError) as error:
    gin_config.parse([str(path)])
  assert "\n" not in str(error.value)
  return error.value


def test_every_line_that_dss_jax_reads_otherwise_is_named(tmp_path):
  error = _refused(tmp_path / "mine.gin", FINETUNE)
  assert "change 17 of its lines, the first one 1" in str(error)
  named = re.findall(r"^  line (\d+) +(\S.*)$", error.details, re.MULTILINE)
  assert [int(line) for line, _ in named] == LINES
  advice = dict(named)
  assert advice["7"].endswith("  include 'models/t5_1_1/small.gin'")
  assert advice["8"].endswith("  include 'runs/finetune.gin'")
  assert advice["12"].endswith("which T5X counts")
  assert advice["15"].endswith("  EVAL_MAX_EXAMPLES")
  assert advice["17"].endswith("  train.train:")
  assert advice["19"].endswith("  EVAL_STEPS")
  assert "EVAL_TASKS" in advice["21"]


def test_the_file_after_these_changes_configures_the_run(tmp_path):
  path = tmp_path / "mine.gin"
  path.write_text(HERE, encoding="utf-8")
  gin_config.parse(
    [str(path)], ["MODEL_DIR = 'x'", "INITIAL_CHECKPOINT_PATH = 'y'"]
  )
  config = gin_config.instance("train.train")
  assert config.model.config.emb_dim == 512
  assert (config.total_steps, config.eval_period) == (10, 5)
  assert config.objective.normalizer == 233472
  assert config.train_dataset_cfg.batch_size == 16
  assert config.train_dataset_cfg.records_per_batch is None
  assert config.evaluation_cfg.decode.num_beams == 4


@pytest.mark.parametrize(
  ("path", "advice"),
  [
    ("t5x/configs/runs/pretrain.gin", "include 'runs/train.gin'"),
    ("t5x/configs/runs/finetune.gin", "include 'runs/finetune.gin'"),
    ("t5x/configs/runs/eval.gin", "use `dss-jax eval`"),
    ("t5x/configs/runs/infer_from_tfexample_file.gin", "use `dss-jax infer`"),
    ("t5x/configs/runs/export_seqio.gin", "use `dss-jax export`"),
    ("t5x/configs/runs/precompile.gin", "use `dss-jax train --plan`"),
    ("t5x/examples/t5/t5_1_0/11B.gin", "include 'models/t5_1_0/11B.gin'"),
    ("/clone/t5x/examples/t5/t5_1_1/xl.gin", "include 'models/t5_1_1/xl.gin'"),
    ("t5x/examples/scalable_t5/t5_1_1/base.gin", "scan_layers = True"),
    ("t5x/examples/t5/mt5/base.gin", "models/from_checkpoint.gin"),
    ("t5x/examples/scalable_t5/umt5/vocab.gin", "models/from_checkpoint.gin"),
    ("t5x/contrib/moe/configs/runs/finetune.gin", "encoder-decoders only"),
    ("t5x/examples/decoder_only/models/xl.gin", "encoder-decoders only"),
    ("t5x/contrib/gpu/t5/t5_1_1/adamw_opt.gin", "optimizers.AdamW"),
  ],
)
def test_t5xs_own_files_have_a_counterpart(path, advice):
  assert advice in (t5x_dialect.of_file(path) or "")
  if not path.startswith("/"):  # the file is not on this machine
    with pytest.raises(UserError, match=re.escape(advice)):
      gin_config.parse([path])


def test_counterparts_exist(repository):
  advice = [what for _, what in t5x_dialect._FILES]
  for size in ("t5_1_1/xxl", "t5_1_0/3B"):
    advice.append(t5x_dialect.of_file(f"t5x/examples/t5/{size}.gin") or "")
  files = re.findall(r"'([\w/]+\.gin)'", "\n".join(advice))
  assert len(files) >= 5
  for file in files:
    assert (repository / "gin" / file).is_file()


def test_names_in_the_advice_exist():
  gin_registry.register()
  tables = (t5x_dialect.MACROS, t5x_dialect._NAMES, t5x_dialect._PARAMETERS)
  texts = [text for table in tables for text in table.values()]
  gin_config.parse(["runs/train.gin", "models/t5_1_1/base.gin"])
  known = {*gin_config.macros()}
  for text in texts:
    for name in re.findall(r"\b[A-Z][A-Z_]{4,}\b", text):
      assert name in {*known, "FILE"}, text
  # None of T5X's macros in the table is one of dss_jax's.
  assert not t5x_dialect.MACROS.keys() & known


def test_a_mistake_in_a_file_of_t5x_is_still_a_mistake(tmp_path):
  error = _refused(tmp_path / "mine.gin", "from t5x import utils\nA = [\n")
  assert "gin cannot read" in str(error)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "USE_HARDWARE_RNG = True",
      "USE_HARDWARE_RNG is used nowhere; it is T5X's",
    ),
    ("TRAIN_STEPS_RELATIVE = 9", "TRAIN_STEPS, which counts this run's own"),
    ("seqio.Evaluator.num_examples = 3", "seqio.Evaluator is T5X's; here: del"),
    (
      "train_eval/utils.DatasetConfig.split = 'test'",
      "nothing reads train_eval/utils.DatasetConfig.split; it is T5X's; here:",
    ),
  ],
)
def test_single_names_of_t5x_are_known(tmp_path, text, message):
  path = tmp_path / "mine.gin"
  error = _refused(path, f"include 'runs/train.gin'\n{text}\n")
  assert message in str(error)
  with pytest.raises(UserError, match=re.escape(message)):
    gin_config.parse(["runs/train.gin"], [text])


def test_the_page_lists_every_macro_of_the_table(repository):
  page = (repository / "docs" / "t5x.md").read_text(encoding="utf-8")
  rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", page, re.MULTILINE))
  for name, advice in t5x_dialect.MACROS.items():
    assert rows[name].replace("`", "").startswith(advice.replace("`", "")), name
  files = ["runs/finetune.gin", "models/t5_1_1/base.gin"]
  gin_config.parse([*files, "partitioning/model_parallel.gin"])
  assert set(rows) - set(t5x_dialect.MACROS) <= {*gin_config.macros()}
