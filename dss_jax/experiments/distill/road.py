"""The road from a table to a student: which commands, in which order."""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from dss_jax import vocabularies
from dss_jax.base import atomic_files
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import read_records
from dss_jax.experiments.distill import outcome
from dss_jax.experiments.distill import project as project_lib
from dss_jax.experiments.distill.commands import Commands
from dss_jax.experiments.distill.project import SPLITS, DistillOptions, Project
from dss_jax.rationales import prompt_drafting
from dss_jax.training import run_directory

# Trials of every method, on a seed that is then discarded.
SEARCH_SEED = 1000
# Of a student that starts from random parameters, and of one from a checkpoint.
_RATES = {True: (0.01, 0.02, 0.04), False: (5e-4, 1e-3, 2e-3)}
_LOOKS = 8
_SPEED_STEPS = 24
# What evaluation and starting add to the time of the steps.
_OVERHEAD, _START_S = 1.3, 8.0
_MAX_EPOCHS = 250
_VOCABULARY_SIZE = 2000
_RECORDS_PER_BATCH = 16
# An export to Hugging Face is checked by its libraries, where they are.
_CAN_CHECK = all(map(importlib.util.find_spec, ("torch", "transformers")))


def distill(options: DistillOptions, agreed: Callable[[str], bool]) -> None:
  """Goes the whole road, or what is left of it.

  Args:
    options: what is distilled.
    agreed: asks the user a question with yes or no.

  Raises:
    UserError: a step failed, or the user does not agree.
    StoppedError: it was stopped; the same call continues.
  """
  project = Project.of(options)
  state = project.read_state()
  project.table("train").parent.mkdir(parents=True, exist_ok=True)
  project.write_state(state)
  commands = Commands(project, state)
  started = time.monotonic()

  _title("1. The table")
  _cut_table(project, commands, state)
  _title("2. What the large model is asked, and what it costs")
  _draft_prompt(project, commands)
  if not state.get("agreed"):
    _check_training(project, commands)
    _agree(project, commands, agreed)
    state["agreed"] = True
    project.write_state(state)
  _title("3. The large model answers")
  _extract(project, commands)
  _title("4. Fine-tuning and distilling step-by-step, with equal trials")
  _prepare_training(project, commands, project.records("train"))
  if "steps" not in state:
    state["steps"] = _steps(project, commands)
    project.write_state(state)
  _sweep(project, commands, state["steps"])
  _title("5. The report")
  report = project.folder / "report"
  commands.run(
    *("report", project.runs_folder, f"--output_dir={report}"),
    "--teacher",
    *(project.records("validation"), project.records("test")),
    again=True,
  )
  found = outcome.read(project)
  _title("6. The student")
  commands.run(
    "export",
    f"--model_dir={found.run}",
    f"--output_dir={project.folder / 'student'}",
    "--overwrite",
    *([] if _CAN_CHECK else ["--check=0"]),
  )
  if not _CAN_CHECK:
    print(
      "not checked against the run, for want of torch and transformers: pip install"
      " 'dss_jax[export]', and start it again"
    )
  _title("What came out")
  print(found.describe())
  print(f"\nreport:   {report / 'report.html'}")
  print(f"student:  {project.folder / 'student'} (from {found.run})")
  print(f"commands: {project.folder / 'commands.sh'}")
  print(f"took {(time.monotonic() - started) / 60:.1f} minutes")


def _title(text: str) -> None:
  print(f"\n=== {text}", flush=True)


def _cut_table(
  project: Project, commands: Commands, state: dict[str, Any]
) -> None:
  """Holds out validation and test records, and shows what there is."""
  options = project.options
  table = [f"--input={options.input}"]
  if options.field_mapping:
    table += ["--field_mapping", *options.field_mapping]
  commands.run("data", "stats", *table)
  if "shares" not in state:
    counts = commands.read("data", "stats", *table, "--json")["splits"]["all"]
    state["shares"] = project_lib.held_out_shares(
      counts["rows"], counts["gold_labels"]
    )
    project.write_state(state)
  commands.run(
    *("data", "convert", *table),
    f"--output={project.folder / 'data'}/{{split}}.jsonl",
    *(f"--{split}_fraction={x}" for split, x in state["shares"].items()),
  )


def _draft_prompt(project: Project, commands: Commands) -> None:
  if project.options.prompt is None and not project.prompt.exists():
    commands.run(
      *("extract", f"--input={project.table('train')}"),
      f"--draft_prompt={project.prompt}",
    )


def _extraction(project: Project, split: str) -> list[str]:
  """The command that asks about a split."""
  options = project.options
  flags: Mapping[str, Any] = {
    "input": project.table(split),
    "output_split": split,
    "output_dir": project.records(split).parent,
    "prompt": project.prompt,
    "model": options.model,
    "base_url": options.base_url,
    "api_key_env": options.api_key_env,
    "max_tokens": options.max_tokens,
    "max_cost": options.max_cost,
    "concurrency": options.concurrency,
  }
  return [
    "extract",
    *(
      f"--{name}={value}" for name, value in flags.items() if value is not None
    ),
  ]


def _agree(
  project: Project, commands: Commands, agreed: Callable[[str], bool]
) -> None:
  """Shows what asking would cost, and asks the user once.

  Raises:
    UserError: the user does not agree.
  """
  totals = {"requests": 0, "cost": 0.0, "most_cost": 0.0}
  priced = True
  for split in SPLITS:
    command = [*_extraction(project, split), "--dry_run", "--json"]
    for estimate in commands.read(*command).values():
      for name in totals:
        if estimate[name] is None:
          priced = False
        else:
          totals[name] += estimate[name]
  shown = f"{totals['requests']:,} requests to {project.options.model}"
  if priced:
    shown += (
      f", about ${totals['cost']:,.2f}, at most ${totals['most_cost']:,.2f}"
    )
  else:
    shown += "; no table has its price, so what they cost is not known"
  if project.options.max_cost is not None:
    shown += f"; it stops before ${project.options.max_cost:,.2f}"
  print(f"The prompt is {project.prompt}. {shown}.")
  if project.options.yes:
    return
  if not agreed("Ask the model?"):
    raise UserError(
      f"the model was not asked; look at {project.prompt}, and agree next time, or"
      " set yes",
      fields="DistillOptions.yes",
    )


def _extract(project: Project, commands: Commands) -> None:
  for split in SPLITS:
    command = _extraction(project, split)
    # 3: written, and some answers never came, which the command says.
    commands.run(
      *command, allowed=(0, 1, 3) if project.options.partial else (0, 3)
    )
    if not project.records(split).exists():
      commands.run(*command, "--no_ask", allowed=(0, 3))


def _check_training(project: Project, commands: Commands) -> None:
  """Finds out whether training can begin, before a cent is spent.

  Raises:
    UserError: the student, its vocabulary or the labels do not fit.
  """
  _prepare_training(project, commands, project.table("train"))
  flags = _train_flags(project, "standard", project.folder / "check", 1)
  commands.run(*flags, "--plan", "--plan_uncompiled")


def _prepare_training(
  project: Project, commands: Commands, train: pathlib.Path
) -> None:
  """Registers the records as a dataset, and makes a vocabulary.

  Args:
    project: whose folder they lie in.
    commands: runs them.
    train: the training records, with or without rationales.
  """
  records, _ = read_records(train)
  labels = prompt_drafting.closed_labels(records)
  atomic_files.write_atomically(
    project.folder / f"{project.module}.py",
    project_lib.module_text(project, sorted(labels)),
  )
  if project.is_from_scratch and project.options.vocabulary is None:
    commands.run(
      *("data", "vocabulary", f"--input={train}"),
      f"--output={project.vocabulary_file}",
      f"--vocab_size={_VOCABULARY_SIZE}",
    )


def _settings(project: Project) -> tuple[str, list[str], dict[str, Any]]:
  """The student's gin file, those of the run, and what all runs bind."""
  options = project.options
  bindings: dict[str, Any] = {
    "MIXTURE_OR_TASK_MODULE": project.module,
    "DATASET": project.dataset,
    "TASK_FEATURE_LENGTHS": {"inputs": 1024, "targets": 256},
    "RECORDS_PER_BATCH": _RECORDS_PER_BATCH,
  }
  if not project.is_from_scratch:
    bindings["INITIAL_CHECKPOINT_PATH"] = options.student
    if options.vocabulary is not None:
      bindings["VOCABULARY"] = options.vocabulary
    return "from_checkpoint", ["runs/finetune.gin"], bindings
  bindings |= {
    "VOCABULARY": options.vocabulary or str(project.vocabulary_file.resolve()),
    "OPTIMIZER": "@optimizers.ParameterScaledAdam()",
    "Z_LOSS": 0.0,
  }
  if options.student != "small":
    return options.student, ["runs/train.gin"], bindings
  size = vocabularies.from_name(bindings["VOCABULARY"]).vocab_size
  bindings["network.T5Config.vocab_size"] = 128 * math.ceil(size / 128)
  return "small_cpu", ["runs/train.gin"], bindings


def _train_flags(
  project: Project, method: str, folder: pathlib.Path, steps: int
) -> list[str]:
  """The command that trains a student by a method."""
  student, files, bindings = _settings(project)
  model = student if student.endswith(".gin") else f"models/{student}.gin"
  bindings |= {
    "MODEL_DIR": folder,
    "TRAIN_STEPS": steps,
    "CHECKPOINT_PERIOD": steps,
  }
  return [
    "train",
    *(f"--gin_file={f}" for f in (model, *files, f"methods/{method}.gin")),
    *(f"--gin.{name}={_gin_value(v)}" for name, v in bindings.items()),
  ]


def _gin_value(value: Any) -> str:
  """A value as a flag has it: plain texts need no quotation marks."""
  # JSON's double quotation marks are easier on shells.
  return json.dumps(value) if isinstance(value, dict) else str(value)


def _steps(project: Project, commands: Commands) -> int:
  """As many steps as all runs can make in the minutes there are.

  A short run of distilling step-by-step measures how long a step takes here.
  """
  folder = project.folder / "speed"
  flags = _train_flags(project, "dss", folder, _SPEED_STEPS)
  commands.run(*flags, "--gin.EVAL_MAX_EXAMPLES=1")
  lines = run_directory.read_jsonl(folder / run_directory.METRICS_FILE)
  times = sorted(
    line["time"]["step_s"] for line in lines if "step_s" in line["time"]
  )
  step_s = times[len(times) // 2]
  runs = len(outcome.METHODS) * (
    project.options.seeds + len(_RATES[project.is_from_scratch])
  )
  seconds = 60 * project.options.minutes / runs - _START_S
  records = sum(1 for _ in project.records("train").open(encoding="utf-8"))
  most = math.ceil(_MAX_EPOCHS * records / _RECORDS_PER_BATCH)
  steps = round(seconds / _OVERHEAD / step_s)
  steps = max(10 * _LOOKS, min(most, steps))
  print(
    f"a step takes {step_s:.3g} s: {runs} runs of about {steps} steps are"
    f" {runs * (steps * step_s * _OVERHEAD + _START_S) / 60:.0f} minutes, one"
    " after another"
  )
  return steps


def _sweep(project: Project, commands: Commands, steps: int) -> None:
  """Trains both methods, with equal trials of learning rates."""
  student, files, bindings = _settings(project)
  values = {
    "axes": {
      "student": [student],
      "method": list(outcome.METHODS),
      "seed": list(range(project.options.seeds)),
    },
    "steps": steps,
    "looks": _LOOKS,
    "gin_files": files,
    "bindings": bindings,
    "search": {"BASE_LEARNING_RATE": list(_RATES[project.is_from_scratch])},
    "search_seeds": [SEARCH_SEED],
    "max_widenings": 1,
  }
  path = project.folder / "methods.gin"
  text = "\n".join(f"  {name} = {value!r}" for name, value in values.items())
  atomic_files.write_atomically(
    path,
    f"# Both methods on {project.dataset}, with equal training tokens and trials:"
    f"\n# `dss-jax sweep {path} --output_dir={project.runs_folder}`.\n"
    f"sweep.Sweep:\n{text}\n",
  )
  commands.run("sweep", path, f"--output_dir={project.runs_folder}")
