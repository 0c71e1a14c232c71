"""The README.md of an exported student: what is known about it, and no more.

Every figure comes from the run's own files or from the check that followed the
export; what they do not say is left out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import __version__, datasets
from dss_jax.base.errors import UserError, one_line
from dss_jax.data.pairs import subtasks
from dss_jax.students.export.answer_checks import Agreement
from dss_jax.students.student import Student
from dss_jax.training import results, run_directory

FILE = "README.md"
# Labels that are listed at most.
_MOST_LABELS = 20

# Keys of results.jsonl, and their names in the card.
_TRAINING = {
  "student": "student",
  "init": "started from",
  "label_source": "labels",
  "rationale_source": "rationales by",
  "train_examples": "training records",
  "steps": "steps",
  "tokens_seen": "tokens seen",
  "seed": "seed",
}


@dataclasses.dataclass(frozen=True)
class Export:
  """What the card says about the export itself.

  Attributes:
    title: the folder's name.
    format: its format, in words.
    usage: how to use it, in Markdown.
    agreements: the results of the check; empty without a check.
    library_name: for the front matter that the hub reads.
  """

  title: str
  format: str
  usage: str
  agreements: Sequence[Agreement] = ()
  library_name: str | None = None


def render(student: Student, export: Export) -> str:
  """The card, in Markdown."""
  results_of_run = _results(student)
  sections = [
    _front_matter(export),
    f"# {_text(export.title)}",
    _introduction(student, export),
    _abilities(student),
    f"## Use\n\n{export.usage.strip()}",
    _training(results_of_run),
    _scores(student, results_of_run),
    _check(export),
    _data(student),
  ]
  return "\n\n".join(filter(None, sections)) + "\n"


def _results(student: Student) -> list[dict[str, Any]]:
  """The lines of results.jsonl, if the student is that of a run with some."""
  source = student.description.get("source")
  if not source:
    return []
  try:
    return run_directory.read_jsonl(pathlib.Path(source) / "results.jsonl")
  except (UserError, OSError):
    return []


def _front_matter(export: Export) -> str:
  lines = ["---"]
  if export.library_name:
    lines.append(f"library_name: {export.library_name}")
  lines += ["tags:", "- t5", "- distilling-step-by-step", "- dss_jax", "---"]
  return "\n".join(lines)


def _introduction(student: Student, export: Export) -> str:
  description = student.description
  text = (
    f"A T5 student ({results.student_name(student.model)}), exported by dss_jax"
    f" {__version__} as {export.format}."
  )
  if description.get("task"):
    text += f" It was trained on the task `{_text(description['task'])}`"
    if description.get("step") is not None:
      text += f" and is its checkpoint of step {description['step']:,}"
    text += "."
  return text


def _abilities(student: Student) -> str:
  """What the student can be asked, and in which words."""
  lines = ["## What it can be asked", ""]
  for subtask in student.subtasks:
    reads, writes = (
      subtasks.fill(
        parts, {name: f"{{{name}}}" for name in ("input", "label", "rationale")}
      )
      for parts in (
        subtask.input_parts(student.options),
        subtask.target_parts(student.options),
      )
    )
    lines.append(
      f"- `{subtask.name}`: reads {_code(reads)}, writes {_code(writes)}"
    )
  lengths = dict(student.feature_lengths)
  if lengths:
    limits = " and ".join(f"{v} tokens of {k}" for k, v in lengths.items())
    lines += ["", f"It was trained with at most {limits}, end ids included."]
  if student.labels:
    shown = ", ".join(map(_code, student.labels[:_MOST_LABELS]))
    more = len(student.labels) - _MOST_LABELS
    lines += ["", f"Labels: {shown}{f' and {more} more' if more > 0 else ''}."]
  lines += ["", "`dss_jax.json` says the same to programs."]
  return "\n".join(lines)


def _training(run_results: Sequence[Mapping[str, Any]]) -> str:
  if not run_results:
    return ""
  result = run_results[-1]
  lines = ["## Training", ""]
  method = result.get("method")
  if method:
    lines.append(f"- method: `{_text(method)}`")
  for key, name in _TRAINING.items():
    value = result.get(key)
    if value is not None:
      value = f"{value:,}" if isinstance(value, int) else _text(value)
      lines.append(f"- {name}: {value}")
  if method and str(method).startswith("dss"):
    lines += [
      "",
      "Distilling step-by-step (arXiv 2305.02301) trains a small student on"
      " labels and on the rationales behind them.",
    ]
  return "\n".join(lines)


def _scores(student: Student, run_results: Sequence[Mapping[str, Any]]) -> str:
  """The run's own scores of this checkpoint."""
  step = student.description.get("step")
  scores = [r for r in run_results if r.get("checkpoint_step") == step]
  if not scores:
    return ""
  lines = [
    "## Scores",
    "",
    "| task | split | metric | value | examples |",
    "|---|---|---|---|---|",
  ]
  for score in scores:
    value = score.get("value")
    shown = f"{value:.4f}" if isinstance(value, (int, float)) else "?"
    cells = [_text(score.get(key)) for key in ("task", "split", "metric")]
    lines.append(f"| {' | '.join([*cells, shown, _text(score.get('n'))])} |")
  selected = scores[0].get("selected_by")
  if selected:
    lines += ["", f"The checkpoint was selected by {_text(selected)}."]
  return "\n".join(lines)


def _check(export: Export) -> str:
  lines = ["## Check", ""]
  if not export.agreements:
    return "\n".join([*lines, "This export was not checked."])
  lines.append(
    "Outputs of this folder against those of the student it was made from:"
  )
  lines += ["", *(f"- {agreement}" for agreement in export.agreements)]
  return "\n".join(lines)


def _data(student: Student) -> str:
  name = student.description.get("dataset")
  if not name or name not in datasets.names():
    return ""
  spec = datasets.get(name)
  lines = ["## Data", ""]
  lines.append(f"Trained on `{name}`{f' ({spec.url})' if spec.url else ''}.")
  if spec.license:
    lines.append(f"Licence of the data: {spec.license}.")
  if spec.citation:
    lines.append(f"Source: {spec.citation}.")
  return "\n".join(lines)


def prompt(student: Student) -> str:
  """The text that the first sub-task reads for an input `TEXT`, in Python."""
  parts = student.subtasks[0].input_parts(student.options)
  fields = {"input": "TEXT", "rationale": "RATIONALE"}
  return json.dumps(subtasks.fill(parts, fields), ensure_ascii=False)


def tokenizing(student: Student, *arguments: str) -> str:
  """Python that makes token ids of what the first sub-task reads.

  Inputs are cut where training and `infer` cut them, if that is known.

  Args:
    student: the exported one.
    *arguments: further ones of the tokenizer.
  """
  first = f"[{prompt(student)}]" if arguments else prompt(student)
  cut = ["truncation=True"] if "inputs" in student.feature_lengths else []
  return f"tokenizer({', '.join([first, *cut, *arguments])})"


def title(folder: str | os.PathLike[str]) -> str:
  """The folder's name, even if its path is `.`."""
  return os.path.basename(os.path.abspath(folder))


def _text(value: Any) -> str:
  """An untrusted value, for use within a line of Markdown."""
  return one_line(value).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
  """A text as code; it is quoted to show spaces at its ends."""
  quoted = json.dumps(text, ensure_ascii=False)
  fence = "``" if "`" in quoted else "`"
  return f"{fence}{quoted}{fence}"
