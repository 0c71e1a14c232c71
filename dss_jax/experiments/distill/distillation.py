"""From a table to a student: which commands, in which order."""

from __future__ import annotations

import importlib.util
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from dss_jax.base import atomic_files
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import read_records
from dss_jax.experiments.distill import outcome, student_settings
from dss_jax.experiments.distill import project as project_lib
from dss_jax.experiments.distill.commands import Commands, hashes
from dss_jax.experiments.distill.project import SPLITS, DistillOptions, Project
from dss_jax.rationales import prompt_drafting
from dss_jax.training import results, run_directory

# Trials of every method, on a seed that is then discarded.
SEARCH_SEED = 1000
# Of a student that starts from random parameters, and of one from a checkpoint.
_RATES = {True: (0.01, 0.02, 0.04), False: (5e-4, 1e-3, 2e-3)}
_LOOKS = 8
# So many answers, or half of a small split, are looked at before the rest is asked
# for.
_CHECKED = 20
_SPEED_STEPS = 24
# What evaluation and starting add to the time of the steps.
_OVERHEAD, _START_S = 1.3, 8.0
_MAX_EPOCHS = 250
_VOCABULARY_SIZE = 2000
# Test records that students answer anew, to be measured.
_MEASURED_ITEMS = 100
# Those that decide are asked about first: `max_cost` may end within the last.
_ASKED = ("validation", "test", "train")
# An export to Hugging Face is checked by its libraries, where they are.
_CAN_CHECK = all(map(importlib.util.find_spec, ("torch", "transformers")))


def distill(options: DistillOptions, agreed: Callable[[str], bool]) -> None:
  """Distils a student from a table, or does what is left of it.

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
  prompt = hashes([project.prompt])
  # Another prompt asks everything anew.
  if state.get("agreed") != prompt:
    _check_training(project, commands)
    _agree(project, commands, agreed)
    state["agreed"] = prompt
    project.write_state(state)
  _title("3. The large model answers")
  _extract(project, commands)
  _title("4. Fine-tuning and distilling step-by-step, with equal trials")
  _check_records(project, state)
  _prepare_training(project, commands, project.records("train"))
  if "steps" not in state:
    state["steps"] = _steps(project, commands)
    project.write_state(state)
  _sweep(project, commands, state["steps"])
  _title("5. The report")
  report = project.folder / "report"
  answered = outcome.teacher_files(project)
  commands.run(
    *("report", project.runs_folder, f"--output_dir={report}"),
    *(f"--measure={_MEASURED_ITEMS}", f"--costs={project.ledger}"),
    *(["--teacher", *answered] if answered else []),
    again=True,
  )
  found = outcome.read(project)
  student = project.folder / "student"
  _title("6. The student")
  commands.run(
    "export",
    f"--model_dir={found.run}",
    f"--output_dir={student}",
    "--overwrite",
    *([] if _CAN_CHECK else ["--check=0"]),
    reads=[found.run / results.RESULTS_FILE],
    makes=[student],
  )
  if not _CAN_CHECK:
    print(
      "not checked against the run, for want of torch and transformers: pip install"
      " 'dss_jax[export]', and start it again"
    )
  _title("What came out")
  print(found.describe())
  print(f"\nreport:   {report / 'report.html'}")
  print(f"student:  {student} (from {found.run})")
  print(f"commands: {project.folder / 'commands.sh'}")
  print(f"took {(time.monotonic() - started) / 60:.1f} minutes")


def _title(text: str) -> None:
  print(f"\n=== {text}", flush=True)


def _cut_table(
  project: Project, commands: Commands, state: dict[str, Any]
) -> None:
  """Holds out validation and test records, and shows what there is.

  Raises:
    UserError: the table is another one than the model was asked about.
  """
  table, file = _table(project), pathlib.Path(project.options.input)
  if state.get("table") != hashes([file]):
    if state.get("table") and state.get("agreed"):
      raise UserError(
        f"{file} has changed since the model was asked about it: give it as it"
        " was, or choose another output_dir",
        fields=("DistillOptions.input", "DistillOptions.output_dir"),
      )
    state.pop("shares", None)
  commands.run("data", "stats", *table, reads=[file])
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
    reads=[file],
    makes=map(project.table, SPLITS),
  )
  state["table"] = hashes([file])
  project.write_state(state)


def _table(project: Project) -> list[str]:
  """The flags that name the user's table."""
  options = project.options
  flags = [f"--input={options.input}"]
  if options.field_mapping:
    flags += ["--field_mapping", *options.field_mapping]
  return flags


def _check_records(project: Project, state: dict[str, Any]) -> None:
  """Raises UserError if there are runs that were trained on other records."""
  files = [project.records(split) for split in SPLITS]
  records = hashes([path for path in files if path.exists()])
  if state.get("trained_on") in (None, records):
    state["trained_on"] = records
  elif project.runs_folder.exists():
    raise UserError(
      f"{project.records('train').parent} has other records than those that"
      f" {project.runs_folder} was trained on: delete that folder to train on"
      " these, or choose another output_dir",
      fields="DistillOptions.output_dir",
    )
  else:
    state["trained_on"] = records
    state.pop("steps", None)
  project.write_state(state)


def _draft_prompt(project: Project, commands: Commands) -> None:
  if project.options.prompt is None and not project.prompt.exists():
    # Of the whole table, which shows every label.
    commands.run(
      *("extract", *_table(project), f"--draft_prompt={project.prompt}"),
      again=True,
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
    "check_first": min(_CHECKED, _num_records(project.table(split)) // 2),
    "concurrency": options.concurrency,
    "min_yield": options.min_yield,
  }
  return [
    "extract",
    *(
      f"--{name}={value}" for name, value in flags.items() if value is not None
    ),
  ]


def _num_records(path: pathlib.Path) -> int:
  with path.open(encoding="utf-8") as file:
    return sum(1 for _ in file)


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
  for split in _ASKED:
    command = _extraction(project, split)
    # 3: written, and some answers never came, which the command says. 1: it
    # stopped before all were asked.
    allowed = (0, 1, 3) if project.options.partial else (0, 3)
    status = commands.run(
      *command,
      reads=(project.prompt, project.table(split)),
      makes=[project.records(split)],
      allowed=allowed,
    )
    if status == 1:
      # 2: there is no answer at all, and the records stay as they were.
      commands.run(*command, "--no_ask", allowed=(0, 2, 3), again=True)
  if not project.records("train").exists():
    raise UserError(
      f"{project.options.model} has answered nothing about the training records:"
      " raise max_cost",
      fields="DistillOptions.max_cost",
    )


def _check_training(project: Project, commands: Commands) -> None:
  """Finds out whether training can begin, before a cent is spent.

  Raises:
    UserError: the student, its vocabulary or the labels do not fit.
  """
  _prepare_training(project, commands, project.table("train"))
  flags = student_settings.train_flags(
    project, "standard", project.folder / "check", 1
  )
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
  # A label may be in one split alone.
  records = [
    record
    for split in SPLITS
    for record in read_records(project.table(split))[0]
  ]
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
      reads=[train],
      makes=[project.vocabulary_file],
    )


def _steps(project: Project, commands: Commands) -> int:
  """As many steps as all runs can make in the minutes there are.

  A short run of distilling step-by-step measures how long a step takes here.
  """
  folder = project.folder / "speed"
  flags = student_settings.train_flags(project, "dss", folder, _SPEED_STEPS)
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
  records = _num_records(project.records("train"))
  most = math.ceil(_MAX_EPOCHS * records / student_settings.RECORDS_PER_BATCH)
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
  student, files, bindings = student_settings.of_project(project)
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
  # 1: some cells have no results. Whether the others are enough is seen later.
  commands.run(
    *("sweep", path, f"--output_dir={project.runs_folder}"),
    reads=[path, *map(project.records, SPLITS)],
    makes=[project.runs_folder / path.stem / results.RESULTS_FILE],
    allowed=(0, 1),
  )
