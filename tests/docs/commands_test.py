"""Every `dss-jax` command of README and docs is understood, and most are run."""

import argparse
import csv
import gzip
import json
import pathlib
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence

import documented_commands
import made_runs
import pytest
from documented_commands import Command

from dss_jax import datasets, main
from dss_jax.base.errors import UserError
from dss_jax.cli import gin_checks, gin_config

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Those of an example are for its folder, where tests/examples runs them.
PAGES = [
  page
  for page in documented_commands.pages(REPOSITORY)
  if "examples" not in page.relative_to(REPOSITORY).parts
]

# ------------------------------------------------------ what is run, and how

_BASE = (
  "--gin_file=models/taxonli.gin",
  "--gin_file=runs/taxonli.gin",
  "--gin_file=data/taxonli.gin",
  "--gin_file=methods/dss.gin",
)
# Makes seconds of the minutes or days that a training takes.
_SMALL = (
  "--gin.TRAIN_STEPS=1",
  "--gin.RECORDS_PER_BATCH=4",
  "--gin.EVAL_MAX_EXAMPLES=4",
  "--gin.network.T5Config.emb_dim=8",
  "--gin.network.T5Config.mlp_dim=16",
  "--gin.network.T5Config.num_encoder_layers=1",
  "--gin.network.T5Config.num_decoder_layers=1",
)
_BYTES = ("--gin.network.T5Config.vocab_size=384",)
_FEW = (
  "--gin.data.DataOptions.taxonli_num_train=32",
  "--gin.data.DataOptions.taxonli_num_validation=8",
  "--gin.data.DataOptions.taxonli_num_test=8",
)
_FEW_GENERATED = tuple(each.replace("taxonli", "generated") for each in _FEW)
_CQA = ("--dataset=cqa", "--data_dir=datasets", "--model=my-model")
_ASK = ("--base_url=LOOPBACK", "--api_key_env=DSS_NO_KEY", "--min_yield=0")

# Commands by their beginnings, and what is added to make them short or whole.
# These are done in a moment.
_QUICK: dict[str, Sequence[str]] = {
  "dss-jax --print_completion=bash": (),
  "dss-jax data stats --dataset=svamp": (),
  "dss-jax data stats --input=mine.jsonl": (),
  "dss-jax data show --task=svamp_dss": (),
  "dss-jax data show --task=kinds_dss": (),
  "dss-jax data show --gin_file=models/taxonli.gin": _FEW,
  "dss-jax data convert --dataset=taxonli": ("--limit=20",),
  "dss-jax data convert --dataset=cqa": (),
  "dss-jax data batches --task=svamp_dss": ("--steps=2",),
  "dss-jax extract --dataset=cqa --data_dir=datasets --dry_run": (),
  "dss-jax extract --show_prompt": _CQA,
  "dss-jax extract --dry_run": _CQA,
  "dss-jax extract --output_dir=runs/cqa --write_batch": _CQA,
  "dss-jax extract --dataset=cqa --data_dir=datasets --base_url": _ASK,
  "dss-jax extract --limit=50": (*_CQA, "--output_dir=runs/cqa", *_ASK),
  "dss-jax extract --header": (*_CQA, "--output_dir=runs/cqa", *_ASK),
  "dss-jax extract --input=tickets.csv": _ASK,
  "dss-jax extract --input=tickets.csv --field_mapping input=text label=team"
  " --draft_prompt": (),
  "dss-jax extract --dataset=cqa --data_dir=datasets --model=my-model"
  " --completions": (),
  "dss-jax extract --dataset=asdiv": _ASK,
}
# These train, or import TensorFlow.
_SLOW: dict[str, Sequence[str]] = {
  "dss-jax data stats --module=my_tasks": (),
  "dss-jax data show --module=my_tasks": ("--gin.RECORDS_PER_BATCH=4",),
  "dss-jax quickstart": ("--seeds=1", "--steps=12"),
  "dss-jax train --gin_file=models/bench.gin": (*_SMALL, *_BYTES),
  "dss-jax train --gin_file=models/taxonli.gin": (*_SMALL, *_FEW),
  "dss-jax train --gin_file=models/families.gin": (*_SMALL, *_FEW_GENERATED),
  "dss-jax train --module=my_tasks": (*_SMALL, *_BYTES),
  "dss-jax train --gin_file=data/svamp.gin --gin_file=methods/extra": (
    "--gin_file=models/small_cpu.gin",
    "--gin_file=runs/train.gin",
    "--data_dir=datasets",
    "--gin.MODEL_DIR=runs/extra",
    *_SMALL,
    *_BYTES,
  ),
  "dss-jax train --gin.VOCABULARY=t5/spiece.model": (
    *_BASE,
    "--gin.MODEL_DIR=runs/added",
    *_SMALL,
    *_FEW,
    *_BYTES,
  ),
  "dss-jax train --model_dir=runs/taxonli_dss": (),
  "dss-jax eval --model_dir=runs/": (),
  "dss-jax checkpoints runs/": (),
  "dss-jax infer --model_dir=runs/taxonli_dss": (),
  "dss-jax infer --model_dir=runs/taxonli_dss --input_format=text": (
    "--input=line.txt",  # which the page writes to its pipe
  ),
  "dss-jax sweep --preset=small": ("--gin.STEPS=12", "--gin.SEEDS=[0]"),
  "dss-jax sweep my_sweep.gin": ("--dry_run",),
  "dss-jax report runs/quickstart": (),
  "dss-jax report runs/sweeps/small": (),
  "dss-jax report --compare": (),
}
# The others, and why.
_NOT_RUN = {
  "dss-jax distill": "takes minutes: tests/experiments/distill",
  "dss-jax train --gin_file=models/from_checkpoint.gin": (
    "loads from the hub: tests/students/pretrained_student_test.py"
  ),
  "dss-jax train --gin_file=data/svamp.gin --gin_file=paper/": (
    "loads from the hub: tests/cli/paper_recipes_test.py"
  ),
  "dss-jax train --gin_file=models/t5_1_1/base.gin": (
    "adapts T5-base: tests/training/lora_runs_test.py"
  ),
  "dss-jax train --plan --plan_topology": (
    "needs the TPU's compiler: tests/planning/tpu_topology_test.py"
  ),
  "dss-jax train --coordinator_address": (
    "needs several processes: tests/training/two_processes_test.py"
  ),
  "dss-jax train --gin_file=models/small_cpu.gin": (
    "names no method: tests/cli/methods_gin_test.py tries all of them"
  ),
  "dss-jax train --gin_file=methods/several_teachers.gin": (
    "needs two teachers: tests/data/pairs/several_teachers_test.py"
  ),
  "dss-jax train --gin.TRACKERS": (
    "needs wandb: tests/training/trackers_test.py"
  ),
  "dss-jax train --profile_steps": (
    "takes tens of steps: tests/training/monitoring/profiling_test.py"
  ),
  "dss-jax train --debug_nans": (
    "wants a run that fails: tests/training/monitoring/nan_origin_test.py"
  ),
  "dss-jax train --gin_file=mine.gin": (
    "is refused, as the page shows: tests/cli/t5x_dialect_test.py"
  ),
  "dss-jax data convert --dataset=NAME": "names no dataset",
  "dss-jax export": "needs the extra `export`: tests/students/export",
  "dss-jax serve": "does not end: tests/students/serving/server_test.py",
  "dss-jax extract --api_key": (
    "needs a provider: tests/rationales/teachers/api_keys_test.py"
  ),
  "dss-jax extract --output_dir=runs/cqa --batch=": (
    "needs a provider: tests/cli/batch_command_test.py"
  ),
  "dss-jax extract --output_dir=runs/cqa --read_batch": (
    "reads what a provider wrote: tests/rationales/teachers/batch_files_test.py"
  ),
  "dss-jax report runs/mine --measure=200": (
    "wants costs: tests/experiments/report/measured_costs_test.py"
  ),
}


def _match(command: Command, table: dict) -> str | None:
  """The longest beginning of a command in a table."""
  found = [each for each in table if command.text.startswith(each)]
  return max(found, key=len, default=None)


def _how(command: Command) -> tuple[dict, str | None]:
  """The table that says most of a command, and its line there."""
  tables = (_QUICK, _SLOW, _NOT_RUN)
  lines = [_match(command, table) for table in tables]
  longest = max(range(3), key=lambda n: len(lines[n] or ""))
  return tables[longest], lines[longest]


def _id(page: pathlib.Path) -> str:
  return page.relative_to(REPOSITORY).as_posix()


# ------------------------------------------------------------- understood


@pytest.fixture
def no_hub(monkeypatch):
  """Nobody can look at a checkpoint of the hub, for sizes and a vocabulary."""
  monkeypatch.setattr(gin_config, "_bind_checkpoint_sizes", lambda: None)


@pytest.fixture(scope="module")
def parsers() -> dict[bool, argparse.ArgumentParser]:
  """The command line's parser; by False, one that requires nothing."""
  relaxed = main.make_parser()
  for parser in _below(relaxed):
    for action in parser._actions:
      action.required = False
      if not action.option_strings and action.nargs is None:
        action.nargs = "?"
  return {True: main.make_parser(), False: relaxed}


def _below(
  parser: argparse.ArgumentParser,
) -> Iterator[argparse.ArgumentParser]:
  yield parser
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for command in action.choices.values():
        yield from _below(command)


def _parse(
  command: Command, parsers: dict[bool, argparse.ArgumentParser]
) -> tuple[argparse.Namespace, list[str]]:
  args, rest = parsers[command.is_whole].parse_known_args(list(command.words))
  wrong = [flag for flag in rest if not flag.startswith("--gin.")]
  assert not wrong, f"unknown: {wrong}"
  assert not rest or hasattr(args, "gin_flags"), f"takes no gin: {rest}"
  return args, rest


def _check_gin(command: Command, args: argparse.Namespace, flags: list[str]):
  """Files are there, names are known, values are of their types."""
  bindings = [gin_config.binding_from_flag(flag) for flag in flags]
  files = list(getattr(args, "gin_file", ()))
  if not files and not bindings:
    return
  if args.mode == "sweep":
    gin_config.parse(
      [f"sweeps/{args.preset or 'small'}.gin"], bindings, root="sweep.Sweep"
    )
    return
  if command.is_whole:
    if any("paper/" in each or "from_checkpoint" in each for each in files):
      bindings.insert(0, "VOCABULARY = 'bytes'")
    if model_dir := getattr(args, "model_dir", None):
      bindings.append(f"MODEL_DIR = {model_dir!r}")
  else:
    files = [each.removeprefix("--gin_file=") for each in _BASE] + files
  gin_config.parse([f for f in files if "NAME" not in f], bindings)
  if command.is_whole and args.mode == "train":
    gin_checks.check_complete("train.train")
  gin_checks.check_types()


# It is there to be refused.
_REFUSED = "--gin_file=mine.gin"


def _mistakes(commands: Sequence[Command], parsers, capsys) -> list[str]:
  found = []
  for command in commands:
    if _REFUSED in command.words or command.words[:1] == ("MODE",):
      continue
    try:
      args, rest = _parse(command, parsers)
      _check_gin(command, args, rest)
    except SystemExit as ended:  # of the parser, which says why; or of --help
      if ended.code:
        found.append(f"{command.text}: {capsys.readouterr().err}")
    except (AssertionError, UserError) as error:
      found.append(f"{command.text}: {error}")
  capsys.readouterr()
  return found


def test_every_command_of_a_page_is_understood(parsers, no_hub, capsys):
  """Modes, flags, gin files and bindings are there, and none is missing."""
  mistakes = {
    _id(page): found
    for page in PAGES
    if (
      found := _mistakes(
        documented_commands.of_page(page, REPOSITORY), parsers, capsys
      )
    )
  }
  assert mistakes == {}


def test_every_command_in_a_sentence_is_understood(parsers, no_hub, capsys):
  mistakes = {
    _id(page): found
    for page in PAGES
    if (
      found := _mistakes(
        documented_commands.in_text(page, REPOSITORY), parsers, capsys
      )
    )
  }
  assert mistakes == {}


def test_every_example_of_the_help_is_understood(parsers, no_hub, capsys):
  examples = [
    command
    for parser in _below(parsers[True])
    for command in documented_commands.of_help(parser.prog, parser.epilog or "")
  ]
  assert len(examples) > 20
  assert _mistakes(examples, parsers, capsys) == []


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("dss-jax fly", "invalid choice"),
    ("dss-jax train --model_dirs=x", "--model_dirs"),
    ("dss-jax eval", "--model_dir"),
    ("dss-jax train --gin_file=runs/no.gin --gin.MODEL_DIR=x", "runs/no.gin"),
    ("dss-jax train ... --gin.network.T5Config.width=8", "width"),
    ("dss-jax report x --gin.TRAIN_STEPS=8", "gin"),
  ],
)
def test_a_wrong_command_is_seen(line, said, tmp_path, parsers, no_hub, capsys):
  """That the tests above look at something."""
  page = tmp_path / "page.md"
  page.write_text(f"# Page\n\n    {line}\n")
  [command] = documented_commands.of_page(page, tmp_path)
  [mistake] = _mistakes([command], parsers, capsys)
  assert said in mistake


def test_commands_are_found_wherever_they_stand(tmp_path):
  page = tmp_path / "page.md"
  page.write_text(
    "Say `dss-jax data\nstats`.\n\n"
    "    $ A=1 .venv/bin/dss-jax data show \\\n      --task='a b'  # why\n"
    "    echo x | dss-jax infer --input=- > y\n"
    "    sbatch --wrap 'dss-jax sweep f.gin --shard=$I/8'\n"
    "    dss-jax serve: ready\n\n"
    "```sh\ndss-jax train ... --debug_nans\n```\n\n"
    "```python\ndss-jax no\n```\n"
  )
  found = documented_commands.of_page(page, tmp_path)
  assert [each.words for each in found] == [
    ("data", "show", "--task=a b"),
    ("infer", "--input=-"),
    ("sweep", "f.gin", "--shard=$I/8"),
    ("train", "--debug_nans"),
  ]
  assert [each.is_whole for each in found] == [True, True, True, False]
  [stats] = documented_commands.in_text(page, tmp_path)
  assert stats.words == ("data", "stats")


def test_other_commands_name_what_there_is():
  """Scripts, targets of make, and extras to install."""
  text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
  scripts = set(re.findall(r"(?:python |^    )((?:benchmarks|launch)/\w+\.\w+)", text, re.M))  # fmt: skip
  assert len(scripts) > 10
  assert [name for name in scripts if not (REPOSITORY / name).is_file()] == []
  makefile = (REPOSITORY / "Makefile").read_text()
  targets = set(re.findall(r"^    make (\w+)|`make (\w+)", text, re.MULTILINE))
  names = {name for pair in targets for name in pair if name}
  assert {"quickstart", "test"} <= names
  assert {n for n in names if not re.search(rf"^{n}:", makefile, re.M)} == set()
  project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
  known = set(project["project"]["optional-dependencies"])
  asked = re.findall(r"pip install (?:-e )?'(?:\.|dss_jax)\[([\w,]+)\]'", text)
  assert len(asked) > 4
  assert {extra for each in asked for extra in each.split(",")} <= known


# ------------------------------------------------------------------- run


def test_every_command_is_run_or_has_a_reason():
  """And no line of the tables is there for nothing."""
  used = set()
  unknown = []
  for page in PAGES:
    for command in documented_commands.of_page(page, REPOSITORY):
      table, line = _how(command)
      if line is None:
        unknown.append(f"{command.page}: {command.text}")
      used.add((id(table), line))
  assert unknown == []
  for table in (_QUICK, _SLOW, _NOT_RUN):
    assert [line for line in table if (id(table), line) not in used] == []
  for reason in _NOT_RUN.values():
    for name in re.findall(r"tests/[\w/.]+", reason):
      assert (REPOSITORY / name).exists(), name


def _prepare(page: pathlib.Path, folder: pathlib.Path) -> None:
  """What a page takes for granted: data, modules, files of its own."""
  (folder / "datasets").symlink_to(
    REPOSITORY / "tests" / "fixtures" / "release"
  )
  for name, number in (("tickets.csv", 40), ("tickets_test.csv", 8)):
    _write_tickets(folder / name, number)
  with gzip.open(folder / "tickets_test.jsonl.gz", "wt") as file:
    for i in range(8):
      file.write(json.dumps({"text": f"My bill {i}", "gold": "billing"}) + "\n")
  text = page.read_text(encoding="utf-8")
  for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
    if found := re.match(r"# (\w+\.py)\n", program):
      (folder / found[1]).write_text(program, encoding="utf-8")
  for block in documented_commands.gin_blocks(page):
    (folder / block.split()[1]).write_text(block, encoding="utf-8")
  records = datasets.load_split("taxonli", "test")[:8]
  with open(folder / "mine.jsonl", "w", encoding="utf-8") as file:
    for record in records:
      file.write(
        json.dumps({"input": record.input, "label": record.label}) + "\n"
      )
  (folder / "t5").mkdir()
  shutil.copy(
    REPOSITORY / "dss_jax" / "datasets" / "taxonli_vocabulary.model",
    folder / "t5" / "spiece.model",
  )
  (folder / "mine.csv").write_text(
    "premise,hypothesis,answer\n"
    "A carrot is in a bus.,A vegetable is in a vehicle.,entailment\n"
  )
  (folder / "line.txt").write_text("A carrot is in a bus.</s>A car is here.\n")
  if page.stem == "rationales":  # others write a file of this name
    (folder / "answers.jsonl").write_text(
      '{"text": "It is wet. So the answer is (a) pond."}\n' * 14
    )


def _write_tickets(path: pathlib.Path, number: int) -> None:
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["question", "text", "team", "why"])
    for i in range(number):
      what, team = (("refund", "billing"), ("password", "login"))[i % 2]
      question = f"My {what} {i} is late"
      writer.writerow([question, question, team, f"{what}: {team}"])


@pytest.fixture
def follow(tmp_path, monkeypatch, loopback, one_device):
  """Runs commands of a page in a folder that has what the page assumes."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setenv("DSS_NO_KEY", "none")
  for name in ("my_tasks", "my_datasets"):
    monkeypatch.delitem(sys.modules, name, raising=False)

  def run(page: pathlib.Path, commands: Sequence[Command]) -> None:
    _prepare(page, tmp_path)
    for command in commands:
      table, line = _how(command)
      assert line is not None
      words = [*command.words, *table[line]]
      # Variables of schedulers are numbers.
      argv = [
        re.sub(r"\$\w+", "0", each).replace("LOOPBACK", loopback.base_url)
        for each in words
      ]
      try:
        status = main.main(argv)
      except SystemExit as ended:
        status = ended.code
      assert status == 0, command.text
      gin_config.clear()

  return run


def _of(table: dict) -> list[pathlib.Path]:
  """The pages with commands of a table."""
  return [
    page
    for page in PAGES
    for commands in [documented_commands.of_page(page, REPOSITORY)]
    if any(_how(each)[0] is table for each in commands)
  ]


@pytest.mark.parametrize("page", _of(_QUICK), ids=_id)
def test_quick_commands_run(page, follow):
  follow(
    page,
    [
      command
      for command in documented_commands.of_page(page, REPOSITORY)
      if _how(command)[0] is _QUICK
    ],
  )


_STUDENT = "--gin.MODEL_DIR=runs/taxonli_dss"


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("page", _of(_SLOW), ids=_id)
def test_a_page_can_be_followed(page, follow, tmp_path):
  """All commands in their order, in small; but those that cannot run here."""
  commands = documented_commands.of_page(page, REPOSITORY)
  for folder in ("runs/quickstart", "runs"):
    if page.stem in ("first_comparison", "report"):
      for method in ("standard", "dss"):
        made_runs.make_run(tmp_path / folder / f"{method}_0", method=method)
  known = {word for each in commands for word in each.words}
  if "--model_dir=runs/taxonli_dss" in known and _STUDENT not in known:
    # README says how that student is made.
    readme = documented_commands.of_page(REPOSITORY / "README.md", REPOSITORY)
    commands = [*(each for each in readme if _STUDENT in each.words), *commands]
  follow(page, [each for each in commands if _how(each)[0] is not _NOT_RUN])
