"""The run of stage 1: ask, read, choose, write, report.

  result = extract(RecordSource.of_records("mine", records), plan, "out")

In the output folder:

  ledger.sqlite        what was asked and answered; shared by all splits
  SPLIT.jsonl          the records with their rationales (and other formats)
  SPLIT.report.json    how good they are
  SPLIT.report.html    the same, to look at
  SPLIT.run.json       what made them

A run that was stopped, by whatever means, continues when it is started again;
the records are written when everything was asked, or without asking.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import dss_jax
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, atomic_file
from dss_jax.rationales import completion_parsing, rationale_selection
from dss_jax.rationales.asking_rounds import Summaries, ask_everything
from dss_jax.rationales.extraction_plan import (
  Endpoint,
  ExtractionPlan,
  TeacherPlan,
)
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.planned_requests import PlannedRequests, answered
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.quality import quality_measures
from dss_jax.rationales.quality.quality_report import QualityReport
from dss_jax.rationales.quality.report_page import PageSample, write_page
from dss_jax.rationales.record_source import RecordSource
from dss_jax.rationales.record_writers import check_paths, open_writers
from dss_jax.rationales.teacher_answers import UNANSWERED
from dss_jax.rationales.teachers.batch_requests import BatchLine

LEDGER_FILE = "ledger.sqlite"


@dataclasses.dataclass(frozen=True)
class ExtractionResult:
  """The result of a run of stage 1.

  Attributes:
    report: quality of the records written; None if the run was stopped and
      wrote nothing.
    files: the files written, the most important first.
    summaries: teacher -> round -> what asking did.
    stopped: why the run ended before everything was asked; "" if it did not.
  """

  report: QualityReport | None
  files: tuple[pathlib.Path, ...]
  summaries: Summaries
  stopped: str = ""


def extract(
  source: RecordSource,
  plan: ExtractionPlan,
  output_dir: str | pathlib.Path,
  *,
  split: str = "train",
  formats: Sequence[str] = ("jsonl",),
  prices: Prices | None = None,
  ask: bool = True,
  stream: TextIO | None = None,
) -> ExtractionResult:
  """Asks the teachers about all records and writes what they answered.

  Args:
    source: the records; rationales they have are kept or dropped as
      `plan.choose.earlier` says.
    plan: prompt, teachers, votes.
    output_dir: folder of the files; made if absent.
    split: the beginning of the files' names.
    formats: suffixes of `record_writers.SUFFIXES`, without the dot.
    prices: prices of models, for costs; the packaged table if None.
    ask: False asks nothing and writes what the ledger holds.
    stream: where progress is shown; None shows it on standard error.

  Raises:
    UserError: for wrong input, or a teacher that cannot be asked at all.
  """
  folder = pathlib.Path(output_dir)
  _make(folder)
  paths = [folder / f"{split}.{suffix}" for suffix in formats]
  check_paths(paths)
  prices = prices or Prices.load()
  with Ledger(folder / LEDGER_FILE) as ledger:
    _remove_leftovers(folder, split)
    for own in plan.prompted_teachers:
      ledger.add_limit(own.sampling.max_tokens)
    summaries, stopped = {}, ""
    if ask:
      summaries, stopped = ask_everything(
        source, plan, ledger, prices=prices, stream=stream
      )
    else:
      _check_answered(source, plan, ledger)
    if stopped:
      # Files of records, where there are any, stay those of a whole run.
      return ExtractionResult(None, (), summaries, stopped)
    report, sample = _write(source, plan, ledger, paths, prices)
  page, numbers, description = (
    folder / f"{split}.{suffix}"
    for suffix in ("report.html", "report.json", "run.json")
  )
  write_page(page, report, sample, title=source.name, subtitle=str(paths[0]))
  _write_json(numbers, report.to_dict())
  _write_json(description, _description(source, plan, summaries))
  files = (*paths, page, numbers, description)
  return ExtractionResult(report, files, summaries)


def batch_lines(
  source: RecordSource, plan: ExtractionPlan, ledger: Ledger | None = None
) -> Iterator[BatchLine]:
  """Everything that can be asked now, for batch files.

  Args:
    source: the records.
    plan: prompt and teachers.
    ledger: if given, the retries and rationalisations that its answers make
      necessary are included.
  """
  for teacher_plan in plan.prompted_teachers:
    planned = PlannedRequests(plan, teacher_plan, ledger)
    rounds = [planned.first(source.read())]
    if ledger is not None:
      rounds.append(planned.again(source.read()))
      rounds.append(planned.with_gold_label(answered(source, plan, ledger)))
    for request in itertools.chain.from_iterable(rounds):
      body = teacher_plan.body(request)
      yield BatchLine(teacher_plan.teacher.name, request, body)


# --- writing -----------------------------------------------------------------


def chosen_records(
  source: RecordSource, plan: ExtractionPlan, ledger: Ledger
) -> Iterator[Record]:
  """The records with the rationales that the answers so far give them."""
  same_answer = functools.partial(completion_parsing.same_answer, plan.prompt)
  for record, answers in answered(source, plan, ledger):
    yield rationale_selection.choose(record, answers, plan.choose, same_answer)


def _check_answered(
  source: RecordSource, plan: ExtractionPlan, ledger: Ledger
) -> None:
  """Raises UserError if there is nothing to write but questions."""
  for _, answers in answered(source, plan, ledger):
    if any(answer.parsed.status != UNANSWERED for answer in answers):
      return
  raise UserError(
    f"{str(ledger.path)!r} holds no answer to these requests; model, prompt,"
    " style, samples, temperature and so on must be those that they were asked"
    " with (see the folder's run.json)",
    fields=("Endpoint.model", "prompt"),
  )


def _write(
  source: RecordSource,
  plan: ExtractionPlan,
  ledger: Ledger,
  paths: Sequence[pathlib.Path],
  prices: Prices,
) -> tuple[QualityReport, PageSample]:
  same_answer = functools.partial(completion_parsing.same_answer, plan.prompt)
  counted = quality_measures.Quality(same_answer=same_answer, cost=prices.cost)
  sample = PageSample(same_answer=same_answer)
  with open_writers(paths) as write:
    for record in chosen_records(source, plan, ledger):
      write(record)
      counted.add(record)
      sample.add(record)
  return counted.report(), sample


def _description(
  source: RecordSource,
  plan: ExtractionPlan,
  summaries: Summaries,
) -> dict[str, Any]:
  """What made the files: everything but API keys, which are unknown here."""
  return {
    "dss_jax": dss_jax.__version__,
    "python": platform.python_version(),
    "unix": time.time(),
    "source": source.name,
    "records": source.count,
    "prompt": {
      "name": plan.prompt.name,
      "sha256": plan.prompt.sha256,
      "exemplars": len(plan.prompt.exemplars),
    },
    "parser": plan.parser,
    "rationale_from": plan.rationale_from,
    "retry_unparsed": plan.retry_unparsed,
    "retry_temperature": plan.retry_temperature,
    "choose": dataclasses.asdict(plan.choose),
    "teachers": [
      _teacher_description(teacher_plan) for teacher_plan in plan.teachers
    ],
    "asked": {
      name: {key: dataclasses.asdict(value) for key, value in rounds.items()}
      for name, rounds in summaries.items()
    },
  }


def _teacher_description(plan: TeacherPlan) -> dict[str, Any]:
  teacher = plan.teacher
  known = {"name": teacher.name, "model": teacher.model}
  known |= {"weight": teacher.weight}
  if plan.knows_records:
    return known
  if isinstance(teacher, Endpoint):
    known = teacher.described()
  return {
    **known,
    "style": plan.style,
    "samples": plan.samples,
    "sampling": dataclasses.asdict(plan.sampling),
    "ask": dataclasses.asdict(plan.ask),
  }


def _write_json(path: pathlib.Path, value: Any) -> None:
  with atomic_file(path) as file:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def _make(folder: pathlib.Path) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"output_dir is {str(folder)!r}, where no folder can be made:"
      f" {error.strerror}",
      fields="output_dir",
    ) from None


def _remove_leftovers(folder: pathlib.Path, split: str) -> None:
  """Removes what a killed run had begun to write; the lock is ours."""
  for path in folder.iterdir():
    if path.name.startswith(f".{split}.") and path.suffix == ".tmp":
      path.unlink(missing_ok=True)
