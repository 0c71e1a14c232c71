"""The run of stage 1: ask, read, choose, write, report.

  result = extract(Source.of_records("mine", records), plan, "out")

In the output folder:

  ledger.sqlite        what was asked and answered; shared by all splits
  SPLIT.jsonl          the records with their rationales (and other formats)
  SPLIT.report.json    how good they are
  SPLIT.report.html    the same, to look at
  SPLIT.run.json       what made them

A run that was stopped, by whatever means, goes on when it is started again; the
records are written when everything was asked, or without asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import dss_jax
from dss_jax.base.errors import UserError
from dss_jax.base.progress import Progress
from dss_jax.datasets.records import Record, atomic_file
from dss_jax.rationales import choosing, parsing
from dss_jax.rationales.asking import request_loop
from dss_jax.rationales.extraction_plan import ExtractionPlan, TeacherPlan
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.planned_requests import Questions
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.quality import counting
from dss_jax.rationales.quality.quality_report import QualityReport
from dss_jax.rationales.quality.report_page import PageSample, write_page
from dss_jax.rationales.record_outputs import check_outputs, open_outputs
from dss_jax.rationales.requests import Request
from dss_jax.rationales.votes import UNANSWERED, Answer

LEDGER_FILE = "ledger.sqlite"


@dataclasses.dataclass(frozen=True)
class Source:
  """Records that can be read any number of times.

  Attributes:
    name: for titles, such as "cqa, train".
    read: a new iterator over them, in a fixed order.
    count: how many there are.
  """

  name: str
  read: Callable[[], Iterator[Record]]
  count: int

  @classmethod
  def of_records(cls, name: str, records: Sequence[Record]) -> Source:
    """Records that are in memory."""
    return cls(name, lambda: iter(records), len(records))


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run of stage 1 came to.

  Attributes:
    report: on the records written; None if it was stopped and wrote nothing.
    files: written, in the order of their importance.
    summaries: teacher -> round -> what asking did.
    stopped: why it ended before everything was asked; "" if it did not.
  """

  report: QualityReport | None
  files: tuple[pathlib.Path, ...]
  summaries: dict[str, dict[str, request_loop.Summary]]
  stopped: str = ""


def ask_everything(
  source: Source,
  plan: ExtractionPlan,
  ledger: Ledger,
  *,
  prices: Prices | None = None,
  stream: TextIO | None = None,
) -> tuple[dict[str, dict[str, request_loop.Summary]], str]:
  """Asks the teachers everything that the ledger does not hold.

  Args:
    source: the records.
    plan: prompt and teachers.
    ledger: open for writing.
    prices: of models; the packaged table if None.
    stream: where progress goes; None writes it to standard error.

  Returns:
    Teacher -> round -> what asking did, and why something is left to ask ("" if
    nothing is). The answers are in the ledger.

  Raises:
    UserError: as `request_loop.ask`.
  """
  prices = prices or Prices.load()
  summaries = asyncio.run(_ask_all(source, plan, ledger, prices, stream))
  return summaries, _stopped(summaries)


def extract(
  source: Source,
  plan: ExtractionPlan,
  output_dir: str | pathlib.Path,
  *,
  split: str = "train",
  formats: Sequence[str] = ("jsonl",),
  prices: Prices | None = None,
  ask: bool = True,
  stream: TextIO | None = None,
) -> Result:
  """Asks the teachers about all records and writes what they answered.

  Args:
    source: the records; rationales they have are kept or dropped as
      `plan.choose.earlier` says.
    plan: prompt, teachers, votes.
    output_dir: made if absent.
    split: names the files.
    formats: suffixes of `outputs.SUFFIXES`, without the dot.
    prices: of models, for costs; the packaged table if None.
    ask: False asks nothing and writes what the ledger holds.
    stream: where progress goes; None writes it to standard error.

  Raises:
    UserError: for wrong input, or a teacher that cannot be asked at all.
  """
  folder = pathlib.Path(output_dir)
  _make(folder)
  paths = [folder / f"{split}.{suffix}" for suffix in formats]
  check_outputs(paths)
  prices = prices or Prices.load()
  with Ledger(folder / LEDGER_FILE) as ledger:
    _remove_leftovers(folder, split)
    summaries: dict[str, dict[str, request_loop.Summary]] = {}
    if ask:
      summaries = asyncio.run(_ask_all(source, plan, ledger, prices, stream))
    else:
      _check_answered(source, plan, ledger)
    stopped = _stopped(summaries)
    if stopped:
      # Files of records, where there are any, stay those of a whole run.
      return Result(None, (), summaries, stopped)
    report, sample = _write(source, plan, ledger, paths, prices)
  files = [*paths]
  files.append(folder / f"{split}.report.html")
  write_page(
    files[-1], report, sample, title=source.name, subtitle=str(paths[0])
  )
  files.append(folder / f"{split}.report.json")
  _write_json(files[-1], report.to_dict())
  files.append(folder / f"{split}.run.json")
  _write_json(files[-1], _description(source, plan, summaries))
  return Result(report, tuple(files), summaries)


def requests(
  source: Source, plan: ExtractionPlan, ledger: Ledger | None = None
) -> Iterator[Request]:
  """Everything that can be asked now, for batch files and estimates.

  Args:
    source: the records.
    plan: prompt and teachers.
    ledger: with it, also the retries and rationalisations that the answers
      it holds call for.
  """
  for teacher_plan in plan.teachers:
    if teacher_plan.knows_records:
      continue
    questions = Questions(plan, teacher_plan, ledger)
    yield from questions.first(source.read())
    if ledger is not None:
      yield from questions.again(source.read())
      yield from questions.with_gold_label(_answered(source, plan, ledger))


# --- asking ------------------------------------------------------------------


async def _ask_all(
  source: Source,
  plan: ExtractionPlan,
  ledger: Ledger,
  prices: Prices,
  stream: TextIO | None,
) -> dict[str, dict[str, request_loop.Summary]]:
  """All rounds of all teachers, one after the other, until one is stopped."""
  summaries: dict[str, dict[str, request_loop.Summary]] = {}
  async with contextlib.AsyncExitStack() as stack:
    # All of them first: what one lacks shall not be told hours later.
    teachers = {
      own.teacher.name: await stack.enter_async_context(_connected(own))
      for own in plan.teachers
      if not own.knows_records
    }
    for own, name, wanted, total in _rounds(source, plan, ledger):
      teacher = teachers[own.teacher.name]
      progress = Progress(
        total,
        description=_title(teacher.name, name),
        waiting="asking ...",
        stream=stream,
      )
      with contextlib.closing(progress):
        summary = await request_loop.ask(
          wanted,
          teacher,
          ledger,
          own.ask,
          prices=prices,
          progress=progress,
          total=total,
        )
      summaries.setdefault(teacher.name, {})[name] = summary
      if summary.stopped:
        break
  return summaries


def _title(teacher: str, round_name: str) -> str:
  """As the bar of 80 columns has room for."""
  teacher = teacher if len(teacher) <= 20 else f"{teacher[:19]}…"
  return teacher if round_name == "first" else f"{teacher} {round_name}"


def _rounds(
  source: Source, plan: ExtractionPlan, ledger: Ledger
) -> Iterator[tuple[TeacherPlan, str, Iterator[Request], int]]:
  """Teacher, name, requests and their number of each round, in its turn."""
  asked = [
    (own, Questions(plan, own, ledger))
    for own in plan.teachers
    if not own.knows_records
  ]
  for own, questions in asked:
    total = source.count * own.samples
    yield own, "first", questions.first(source.read()), total
    for number in range(1, plan.retry_unparsed + 1):
      total = sum(1 for _ in questions.again(source.read()))
      if total:
        wanted = questions.again(source.read())
        yield own, f"retry {number}", wanted, total
  if plan.choose.gold == "rationalise":
    for own, questions in asked:
      answered = functools.partial(_answered, source, plan, ledger)
      total = sum(1 for _ in questions.with_gold_label(answered()))
      if total:
        wanted = questions.with_gold_label(answered())
        yield own, "rationalise", wanted, total


@contextlib.asynccontextmanager
async def _connected(teacher_plan: TeacherPlan):
  teacher = teacher_plan.teacher.connect()  # type: ignore[union-attr]
  try:
    yield teacher
  finally:
    await teacher.close()


def _stopped(summaries: dict[str, dict[str, request_loop.Summary]]) -> str:
  for rounds in summaries.values():
    for summary in rounds.values():
      if summary.stopped:
        return summary.reason
  return ""


# --- writing -----------------------------------------------------------------


def chosen_records(
  source: Source, plan: ExtractionPlan, ledger: Ledger
) -> Iterator[Record]:
  """The records with the rationales that the answers so far give them."""
  same_answer = functools.partial(parsing.same_answer, plan.prompt)
  for record, answers in _answered(source, plan, ledger):
    yield choosing.choose(record, answers, plan.choose, same_answer)


def _answered(
  source: Source, plan: ExtractionPlan, ledger: Ledger
) -> Iterator[tuple[Record, list[Answer]]]:
  """The records with the answers of all teachers."""
  of_teachers = [
    Questions(plan, own, ledger).answers(source.read()) for own in plan.teachers
  ]
  for of_record in zip(*of_teachers):
    answers = [answer for _, given in of_record for answer in given]
    yield of_record[0][0], answers


def _check_answered(
  source: Source, plan: ExtractionPlan, ledger: Ledger
) -> None:
  """Raises UserError if there is nothing to write but questions."""
  for _, answers in _answered(source, plan, ledger):
    if any(answer.parsed.status != UNANSWERED for answer in answers):
      return
  raise UserError(
    f"{str(ledger.path)!r} holds no answer to these requests; the flags must be"
    " those that they were asked with (model, prompt, style, samples,"
    " temperature, ...; see the folder's run.json)"
  )


def _write(
  source: Source,
  plan: ExtractionPlan,
  ledger: Ledger,
  paths: Sequence[pathlib.Path],
  prices: Prices,
) -> tuple[QualityReport, PageSample]:
  same_answer = functools.partial(parsing.same_answer, plan.prompt)
  counted = counting.Quality(same_answer=same_answer, cost=prices.cost)
  sample = PageSample(same_answer=same_answer)
  with open_outputs(paths) as write:
    for record in chosen_records(source, plan, ledger):
      write(record)
      counted.add(record)
      sample.add(record)
  return counted.report(), sample


def _description(
  source: Source,
  plan: ExtractionPlan,
  summaries: dict[str, dict[str, request_loop.Summary]],
) -> dict[str, Any]:
  """What made the files: everything but keys, which nothing here knows."""
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
    "retry_unparsed": plan.retry_unparsed,
    "retry_temperature": plan.retry_temperature,
    "choose": dataclasses.asdict(plan.choose),
    "teachers": [_teacher_description(each) for each in plan.teachers],
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
  if dataclasses.is_dataclass(teacher) and not isinstance(teacher, type):
    known = dataclasses.asdict(teacher)
    # Some give the key itself in its place.
    known.pop("api_key_env", None)
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
      f"--output_dir is {str(folder)!r}, where no folder can be made:"
      f" {error.strerror}"
    ) from None


def _remove_leftovers(folder: pathlib.Path, split: str) -> None:
  """Removes what a killed run had begun to write; the lock is ours."""
  for path in folder.iterdir():
    if path.name.startswith(f".{split}.") and path.suffix == ".tmp":
      path.unlink(missing_ok=True)
