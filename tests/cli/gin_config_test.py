import ast
import inspect
import pathlib
import re
import subprocess
import sys

import command_line
import gin
import pytest

from dss_jax.base.errors import UserError
from dss_jax.cli import gin_config, gin_registry


@pytest.fixture(autouse=True)
def _forget():
  yield
  gin_config.clear()


@pytest.mark.parametrize(
  ("flag", "binding"),
  [
    ("--gin.MODEL_DIR=runs/x", "MODEL_DIR = 'runs/x'"),
    ("--gin.MODEL_DIR='runs/x'", "MODEL_DIR = 'runs/x'"),
    ("--gin.STEPS=12", "STEPS = 12"),
    ("--gin.LR=5e-5", "LR = 5e-5"),
    ("--gin.A=None", "A = None"),
    ("--gin.A=True", "A = True"),
    ("--gin.A=@f()", "A = @f()"),
    ("--gin.A=%B", "A = %B"),
    ("--gin.A=[@f, @g()]", "A = [@f, @g()]"),
    ("--gin.L={'inputs': 4}", "L = {'inputs': 4}"),
    ("--gin.a/b.c=x=y", "a/b.c = 'x=y'"),
    ("--gin.P=it's", 'P = "it\'s"'),
    ("--gin.P=a@b.c", "P = 'a@b.c'"),
  ],
)
def test_flags_become_bindings(flag, binding):
  assert gin_config.binding_from_flag(flag) == binding


def test_a_gin_flag_without_a_value_is_refused():
  with pytest.raises(UserError, match=r"write --gin\.NAME=VALUE"):
    gin_config.binding_from_flag("--gin.MODEL_DIR")


def _gin_files() -> list[str]:
  folder = gin_config.PACKAGED_FOLDER
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.gin"))


# Its sizes are a checkpoint's; see tests/pretrained/command_test.py.
_FROM_CHECKPOINT = "models/from_checkpoint.gin"
# Those of a checkpoint bring its vocabulary, from the hub; see below.
_PAPER_SIZES = {
  f"paper/{name}.gin" for name in ("t5_base", "t5_large", "t5_xxl")
}


@pytest.mark.parametrize(
  "path", sorted({*_gin_files()} - {_FROM_CHECKPOINT} - _PAPER_SIZES)
)
def test_every_packaged_file_parses(path, tmp_path, monkeypatch):
  # From a folder that has folders of the same names.
  for name in ("runs", "models", "data"):
    (tmp_path / name).mkdir()
  monkeypatch.chdir(tmp_path)
  gin_config.parse([path])


def test_the_papers_sizes_parse_without_their_checkpoints():
  for path in sorted(_PAPER_SIZES):
    bindings = ["INITIAL_CHECKPOINT_PATH = None", "VOCABULARY = 'bytes'"]
    gin_config.parse([path], bindings)


def _models() -> list[str]:
  models = [path for path in _gin_files() if path.startswith("models/")]
  return sorted({*models} - {_FROM_CHECKPOINT})


@pytest.mark.parametrize("path", _models())
def test_every_model_builds_with_every_kind_of_run(path):
  for run in ("train", "official", "finetune", "taxonli"):
    gin_config.parse(
      [path, f"runs/{run}.gin", "data/taxonli.gin", "methods/dss.gin"],
      [
        "MODEL_DIR = 'x'",
        "TRAIN_STEPS = 3",
        "INITIAL_CHECKPOINT_PATH = None",
        "VOCABULARY = 'bytes'",
      ],
    )
    config = gin_config.instance("train.train")
    assert config.model.config.dropout_rate == 0.1
    assert config.total_steps == 3
    dataset = config.train_dataset_cfg
    assert dataset.mixture_or_task_name == "taxonli_dss"


def test_the_operative_configuration_parses_to_the_same_run():
  gin_config.parse(
    [
      "models/taxonli.gin",
      "runs/taxonli.gin",
      "data/taxonli.gin",
      "methods/dss.gin",
    ],
    ["MODEL_DIR = 'x'", "TRAIN_STEPS = 3", "ALPHA = 0.25"],
  )
  first = gin_config.instance("train.train")
  text = gin_config.operative_config()
  gin_config.clear()
  gin_config.parse([], [text])
  second = gin_config.instance("train.train")
  assert second.objective == first.objective
  assert second.objective.alpha == 0.25
  assert second.model.config == first.model.config
  assert second.train_dataset_cfg == first.train_dataset_cfg
  assert second.optimizer == first.optimizer
  assert second.evaluation_cfg == first.evaluation_cfg
  assert gin_config.operative_config() == text


def test_what_a_run_was_configured_with_can_be_overridden_and_finds_tasks():
  files = ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"]
  flags = ["METHOD = 'dss'", "MODEL_DIR = 'x'", "TRAIN_STEPS = 3"]
  gin_config.parse(files, flags)
  gin_config.instance("train.train")
  text = gin_config.operative_config(["my.tasks"])
  gin_config.clear()
  gin_config.parse(
    [], [text, "data.DataOptions.taxonli_seed = 5", "VOCABULARY = 'bytes'"]
  )
  assert gin_config.macro("MIXTURE_OR_TASK_MODULE") == ["my.tasks"]
  dataset = gin_config.instance("train.train", model_dir="y").train_dataset_cfg
  assert dataset.data.taxonli_seed == 5
  assert dataset.attention_length == 600


def test_later_files_and_bindings_win_and_search_paths_come_first(tmp_path):
  (tmp_path / "mine.gin").write_text("include 'runs/train.gin'\nALPHA = 0.1\n")
  gin_config.parse(["mine.gin"], [], [str(tmp_path)])
  assert gin_config.macro("ALPHA") == 0.1
  gin_config.parse(["mine.gin"], ["ALPHA = 0.2"], [str(tmp_path)])
  assert gin_config.macro("ALPHA") == 0.2


def test_parsing_forgets_what_was_parsed_before():
  gin_config.parse(["runs/train.gin"], ["ALPHA = 0.1"])
  gin_config.parse([], [])
  assert gin_config.macro("ALPHA") is None


@pytest.mark.parametrize(
  ("files", "bindings", "message"),
  [
    (["runs/trian.gin"], [], r"did you mean runs/train\.gin"),
    (["nowhere.gin"], [], "neither a file here nor one of the packaged"),
    ([], ["network.T5Confg.emb_dim = 3"], r"there is network\.T5Config"),
    ([], ["network.T5Config.emb_dims = 3"], "there is emb_dim"),
    (["runs/train.gin"], ["TRAIN_STEP = 3"], "did you mean TRAIN_STEPS"),
    ([], ["A = ["], "gin cannot read"),
    ([], ["A 3"], "gin cannot read 'A 3': .* Write NAME = VALUE"),
    ([], ["A = @optimizers.Adam()"], r"there is .*optimizers\.AdamW"),
  ],
)
def test_wrong_configurations_are_refused_in_one_line(files, bindings, message):
  with pytest.raises(UserError, match=message) as error:
    gin_config.parse(files, bindings)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("TRAIN_STEP = 3", "line 2: gin macro TRAIN_STEP is used nowhere; did you"),
    (
      "trian/utils.DatasetConfig.pack = False",
      "nothing reads trian/utils.DatasetConfig.pack; did you mean"
      " train/utils.DatasetConfig?",
    ),
    ("train/losses.Objective.alpha = 0.1", "did you mean losses.Objective?"),
    (
      "train/utils.DatasetConfig:\n  pack = False\neval/DataOptions:\n"
      "  data_dir = 'x'",
      "line 5: nothing reads eval/DataOptions.data_dir; did you mean"
      " train/DataOptions?",
    ),
  ],
)
def test_what_nothing_reads_is_an_error_in_files_and_flags(
  tmp_path, text, message
):
  path = tmp_path / "mine.gin"
  path.write_text(f"include 'runs/train.gin'\n{text}\n")
  with pytest.raises(UserError) as error:
    gin_config.parse([str(path)])
  assert message in str(error.value)
  (tmp_path / "outer.gin").write_text(f"include '{path}'\n")
  with pytest.raises(UserError, match=re.escape(f"{path}, line")):
    gin_config.parse([str(tmp_path / "outer.gin")])
  with pytest.raises(UserError) as error:
    gin_config.parse(["runs/train.gin"], [text])
  assert message.partition(": ")[2] or message in str(error.value)
  assert "line 2" not in str(error.value)


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    (
      "utils.DatasetConfig.pack = False",
      "nothing reads utils.DatasetConfig.pack:"
      " train/utils.DatasetConfig.pack is bound and wins; bind that",
    ),
    (
      "DatasetConfig.pack = False",
      "nothing reads DatasetConfig.pack:"
      " train/DatasetConfig.pack is bound and wins; bind that",
    ),
    ("lora.LoraOptions.rank = 4", "nothing reads lora.LoraOptions.rank;"),
    (
      "adafactor.Adafactor.decay_rate = 0.9",
      "nothing reads adafactor.Adafactor.decay_rate;",
    ),
    ("trackers.Wandb.project = 'x'", "nothing reads trackers.Wandb.project;"),
  ],
)
def test_bindings_without_a_scope_that_nothing_reads_are_errors(
  tmp_path, binding, message
):
  # The optimizer of runs/taxonli.gin takes the place of models/taxonli.gin's.
  files = ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"]
  with pytest.raises(UserError) as error:
    gin_config.parse(files, [binding])
  assert str(error.value).startswith(message)
  path = tmp_path / "mine.gin"
  path.write_text(f"{binding}\n")
  with pytest.raises(UserError) as error:
    gin_config.parse([*files, str(path)])
  assert str(error.value).startswith(f"{path}, line 1: {message}")


@pytest.mark.parametrize(
  ("text", "flag"),
  [
    (
      "BASE_LEARNING_RATE = 0.002",
      "utils.create_learning_rate_scheduler.base_learning_rate = 0.01",
    ),
    (
      "MY = 32\nevaluation.EvaluationConfig.batch_size = %MY",
      "evaluation.EvaluationConfig.batch_size = 64",
    ),
    (
      "OPTIMIZER = @adafactor.Adafactor()\n"
      "adafactor.Adafactor.decay_rate = 0.9",
      "OPTIMIZER = @optimizers.AdamW()",
    ),
    (
      "TRACKERS = [@trackers.Wandb()]\ntrackers.Wandb.project = 'x'",
      "TRACKERS = ()",
    ),
    (
      "utils.DatasetConfig.attention_length = 99",
      "train/utils.DatasetConfig.attention_length = 50",
    ),
  ],
)
def test_what_a_later_binding_replaces_counts_as_read(tmp_path, text, flag):
  path = tmp_path / "mine.gin"
  path.write_text(text)
  files = ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"]
  gin_config.parse([*files, str(path)], [flag])


def test_a_run_may_be_continued_with_what_its_configuration_replaced(tmp_path):
  path = tmp_path / "config.gin"
  path.write_text("include 'runs/train.gin'\nMY = 3\nEVAL_PERIOD = %MY\n")
  gin_config.parse([], ["MY = 4", "EVAL_PERIOD = 5"], run_file=str(path))
  assert gin_config.macro("EVAL_PERIOD") == 5


def test_an_unknown_name_far_from_all_others_is_still_refused_in_short():
  files = ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"]
  for binding in (
    "MY = 1", "q/losses.Objective.alpha = 1", "q.q = 1",
    "network.T5Config.q = 1",
  ):  # fmt: skip
    with pytest.raises(UserError) as error:
      gin_config.parse(files, [binding])
    assert len(str(error.value)) < 300, binding


def test_scopes_and_macros_that_are_read_are_none(tmp_path):
  path = tmp_path / "mine.gin"
  path.write_text(
    "include 'models/t5_1_1/base.gin'\ninclude 'runs/train.gin'\n"
    "SIZE = 8\nHALF = %SIZE\nnetwork.T5Config.emb_dim = %HALF\n"
    "train/utils.DatasetConfig.attention_length = 99\n"
    "train/data.DataOptions.max_records = 5\n"
    "MIXTURE_OR_TASK_MODULE = 'json'\n"
  )
  gin_config.parse([str(path)])


def test_what_a_run_was_configured_with_may_become_superfluous(tmp_path):
  files = ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"]
  flags = ["METHOD = 'dss'", "MODEL_DIR = 'x'", "TRAIN_STEPS = 3"]
  gin_config.parse(files, flags)
  gin_config.instance("train.train")
  path = tmp_path / "config.gin"
  path.write_text(gin_config.operative_config())
  gin_config.parse(
    [],
    [
      "OPTIMIZER = @adafactor.Adafactor()",
      "MIXTURE_OR_TASK_NAME = 'cqa_dss'",
      "network.T5Config.dtype = 'bfloat16'",
    ],
    run_file=str(path),
  )
  config = gin_config.instance("train.train")
  assert config.train_dataset_cfg.mixture_or_task_name == "cqa_dss"
  # gin takes the macro MODEL for a scope; a flag without it must still win.
  assert config.model.config.dtype == "bfloat16"


@pytest.mark.parametrize(
  ("bindings", "expected"),
  [
    ([], (None, 32)),
    (["BATCH_SIZE = 8"], (8, None)),
    # Whoever binds a parameter itself binds that one only.
    (["train/utils.DatasetConfig.batch_size = 8"], (8, 32)),
    (["evaluation.EvaluationConfig.batch_size = 8"], (None, 32)),
    (["BATCH_SIZE = 8", "RECORDS_PER_BATCH = 16"], (8, 16)),
    (["BATCH_SIZE = None"], (None, 32)),
    (["RECORDS_PER_BATCH = 16"], (None, 16)),
  ],
)
def test_a_batch_size_alone_means_packed_rows(tmp_path, bindings, expected):
  files = ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"]
  needed = ["METHOD = 'dss'", "MODEL_DIR = 'x'", "TRAIN_STEPS = 3"]
  (tmp_path / "mine.gin").write_text("\n".join(bindings))
  for more, flags in (([], bindings), ([str(tmp_path / "mine.gin")], [])):
    gin_config.parse([*files, *more], [*needed, *flags])
    dataset = gin_config.instance("train.train").train_dataset_cfg
    assert (dataset.batch_size, dataset.records_per_batch) == expected


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("# \N{LATIN SMALL LETTER E WITH ACUTE}\n".encode("latin-1"), "0xe9"),
    (b"A = 1\n\xff\xfeB = 2\n", "line 2 of .* is not UTF-8"),
    (b"include 'mine.gin'\n", "includes itself"),
    (b"include 'runs/trian.gin'\n", r"did you mean runs/train\.gin"),
    (b"import no_such_module_here\n", "No module named 'no_such_module_here'"),
  ],
)
def test_files_that_cannot_be_read(tmp_path, monkeypatch, content, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine.gin").write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    gin_config.parse(["mine.gin"])
  assert "\n" not in str(error.value)


@pytest.mark.slow
def test_files_are_utf_8_whatever_the_locale(tmp_path, repository):
  path = tmp_path / "mine.gin"
  path.write_text(
    "# \N{LATIN SMALL LETTER E WITH ACUTE}\ninclude 'runs/train.gin'\n"
    "data.MethodOptions.label_prefix = '\N{LATIN SMALL LETTER E WITH ACUTE} '\n",
    encoding="utf-8",
  )
  program = """\
import locale, sys
from dss_jax.cli import gin_config
assert locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8")
gin_config.parse([sys.argv[1]])
assert gin_config.instance("data.MethodOptions").label_prefix == "\\xe9 "
"""
  subprocess.run(
    [sys.executable, "-c", program, str(path)],
    env=command_line.environment(
      LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    ),
    cwd=repository,
    check=True,
  )


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
  path = tmp_path / "mine.gin"
  path.write_bytes(
    "include 'runs/train.gin'\nALPHA = 0.125\n".encode("utf-8-sig")
  )
  gin_config.parse([str(path)])
  assert gin_config.macro("ALPHA") == 0.125


def test_wrong_values_are_refused_in_one_line():
  gin_config.parse([], ["network.T5Config.emb_dim = -1"])
  with pytest.raises(UserError, match="emb_dim is -1") as error:
    gin_config.instance("network.T5Config", vocab_size=8)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    (
      "ALPHA = 'nan'",
      "ALPHA is 'nan'; losses.Objective.alpha must be a finite",
    ),
    ("BASE_LEARNING_RATE = 1e999", "BASE_LEARNING_RATE is inf"),
    ("TRAIN_STEPS = True", "total_steps must be a whole number"),
    ("data.MethodOptions.rates = 3", "rates is 3; it must be a dictionary"),
    ("EVAL_TASKS = [3]", "EVAL_TASKS is"),
    ("ALPHA = %ALPHA", "ALPHA stands for itself"),
    (f"ALPHA = '{'x' * 9999}'", r"xx\.\.\.;"),
  ],
)
def test_values_of_the_wrong_type_are_refused_in_one_line(binding, message):
  gin_config.parse(
    ["models/taxonli.gin", "runs/taxonli.gin", "data/taxonli.gin"],
    ["MODEL_DIR = 'x'", "TRAIN_STEPS = 1", "METHOD = 'dss'", binding],
  )
  with pytest.raises(UserError, match=message) as error:
    gin_config.instance("train.train")
  assert "\n" not in str(error.value)
  assert len(str(error.value)) < 400


def test_an_error_in_a_file_names_the_file(tmp_path):
  path = tmp_path / "mine.gin"
  path.write_text("A = __import__('os')\n")
  with pytest.raises(UserError, match=r"mine\.gin: .*quoted strings") as error:
    gin_config.parse([str(path)])
  assert "object at" not in str(error.value)


def test_all_that_is_missing_is_named_at_once():
  gin_config.parse(["models/taxonli.gin", "runs/taxonli.gin"])
  with pytest.raises(UserError) as error:
    gin_config.instance("train.train")
  message = str(error.value)
  assert "\n" not in message
  assert "--gin.MODEL_DIR=... --gin.TRAIN_STEPS=..." in message
  assert "--gin_file=data/... (or --gin.TASK_FEATURE_LENGTHS=..." in message
  assert "--gin_file=methods/... (or --gin.METHOD=...)" in message
  # A name makes DATASET and METHOD unnecessary.
  gin_config.parse(
    ["models/taxonli.gin", "runs/taxonli.gin"],
    ["MIXTURE_OR_TASK_NAME = 'taxonli_dss'", "TRAIN_STEPS = 3"],
  )
  with pytest.raises(UserError, match=r"^MODEL_DIR, TASK_FEATURE_LENGTHS are"):
    gin_config.instance("train.train")


def test_a_configuration_without_a_run_is_refused():
  gin_config.parse(["models/taxonli.gin"])
  with pytest.raises(UserError, match=r"--gin_file=runs/train\.gin"):
    gin_config.instance("train.train")


def test_a_missing_search_path_is_refused(tmp_path):
  with pytest.raises(UserError, match="--gin_search_paths"):
    gin_config.parse([], [], [str(tmp_path / "none")])


def test_gin_is_the_library_not_the_folder():
  assert pathlib.Path(gin.__file__).parent.name == "gin"
  assert "site-packages" in gin.__file__ or "dist-packages" in gin.__file__


def _texts(path: pathlib.Path):
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


def test_bindings_named_in_messages_and_docstrings_exist(repository):
  gin_registry.register()
  known = {
    name: set(inspect.signature(target).parameters)
    for name, target in gin_registry.configurables.items()
  }
  modules = "|".join({name.partition(".")[0] for name in known})
  binding = re.compile(rf"\b((?:{modules})\.[A-Z]\w+)\.([a-z]\w*)")
  named = {
    (str(path), *match.groups())
    for path in (repository / "dss_jax").rglob("*.py")
    for text in _texts(path)
    for match in binding.finditer(text)
  }
  assert named  # else nothing is looked at
  wrong = [
    found
    for found in named
    if found[2] not in known.get(found[1], ()) and not found[2].endswith("_")
  ]
  assert not wrong
