"""The quality report as one HTML page that needs nothing else.

  sample = PageSample()
  for record in records:
    quality_measures.add(record)
    sample.add(record)
  write_page("out/report.html", quality_measures.report(), sample, title="cqa, train")

The page works from a file, without a network (`base/standalone_page`). It holds
a bounded sample of the records, those with failures first, and says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import json
import os
import pathlib
from typing import Any

from dss_jax.base import standalone_page
from dss_jax.base.standalone_page import MAX_TEXT_CHARS, cut
from dss_jax.datasets.records import Rationale, Record, atomic_file
from dss_jax.rationales import rationale_selection
from dss_jax.rationales.quality import quality_measures
from dss_jax.rationales.quality.accounts import account_of
from dss_jax.rationales.quality.quality_report import QualityReport
from dss_jax.rationales.teacher_answers import SameAnswer

_FOLDER = pathlib.Path(__file__).parent / "page"

# The kinds of records, in the order in which they are preferred.
FAILED = "failed"  # an answer could not be used, or nothing is left to train on
DISAGREES = "disagrees"  # the most voted label is not the gold one
FINE = "fine"
KINDS = (FAILED, DISAGREES, FINE)

# Most rationales of any one record on the page, and characters of all of them
# after which no further rationale is shown.
MAX_RATIONALES = 24
_MAX_RECORD_CHARS = 40_000


@dataclasses.dataclass(frozen=True)
class HeldRecord:
  """A record as the page holds it.

  Attributes:
    position: its place in the file, from 0.
    kind: one of KINDS.
    shown: what the page shows, as JSON values.
  """

  position: int
  kind: str
  shown: dict[str, Any]


class PageSample:
  """Chooses the records that a page holds, in bounded memory."""

  def __init__(
    self,
    *,
    max_records: int = 500,
    max_bytes: int = 8 << 20,
    same_answer: SameAnswer = quality_measures.same_words,
  ):
    """Begins with no records.

    Args:
      max_records: most records of all kinds together. Each of the two kinds
        that are no failures has a fifth of them, as far as there are such.
      max_bytes: largest size of their JSON; further records are left out.
      same_answer: whether two labels are the same answer.
    """
    self._max_records = max_records
    self._max_bytes = max_bytes
    self._same_answer = same_answer
    self.seen: dict[str, int] = dict.fromkeys(KINDS, 0)
    # Kind -> the records whose digests are the least: a uniform sample that
    # depends on nothing but the ids.
    self._heaps: dict[str, list[tuple[int, int, HeldRecord]]] = {
      kind: [] for kind in KINDS
    }

  def add(self, record: Record):
    """Considers a record for the page."""
    position = sum(self.seen.values())
    account = account_of(record, self._same_answer)
    kind = _kind(record, account.agrees)
    self.seen[kind] += 1
    digest = hashlib.blake2b(record.id.encode(), digest_size=8).digest()
    order = -int.from_bytes(digest, "big")
    heap = self._heaps[kind]
    if len(heap) >= self._max_records and order <= heap[0][0]:
      return
    shown = _shown(record, kind, self._same_answer)
    shown["votes"] = [[cut(v.label), v.share] for v in account.votes[:24]]
    shown["agrees"] = account.agrees
    shown["margin"] = account.margin
    entry = (order, -position, HeldRecord(position, kind, shown))
    if len(heap) < self._max_records:
      heapq.heappush(heap, entry)
    else:
      heapq.heapreplace(heap, entry)

  def held(self) -> list[HeldRecord]:
    """The records for the page: kinds in the order of KINDS, then by position."""
    limit = self._max_records
    found = {kind: len(heap) for kind, heap in self._heaps.items()}
    counts: dict[str, int] = {
      kind: min(found[kind], limit // 5) for kind in KINDS[1:]
    }
    counts[FAILED] = min(found[FAILED], limit - sum(counts.values()))
    for kind in KINDS[1:]:
      room = limit - sum(counts.values())
      counts[kind] += min(found[kind] - counts[kind], room)
    chosen: list[HeldRecord] = []
    num_bytes = 0
    for kind in KINDS:
      for _, _, record in heapq.nlargest(counts[kind], self._heaps[kind]):
        num_bytes += len(json.dumps(record.shown))
        if num_bytes > self._max_bytes:
          break
        chosen.append(record)
    return sorted(chosen, key=lambda r: (KINDS.index(r.kind), r.position))


def write_page(
  path: str | os.PathLike[str],
  report: QualityReport,
  sample: PageSample,
  *,
  title: str = "Rationales",
  subtitle: str = "",
) -> None:
  """Writes the page, atomically.

  Args:
    path: the .html file.
    report: the numbers.
    sample: the records to browse.
    title: a few words, such as the dataset and split.
    subtitle: one line below it, such as the files it is about.

  Raises:
    UserError: if the folder is missing or not writable.
  """
  page = render(report, sample, title=title, subtitle=subtitle)
  with atomic_file(path) as file:
    file.write(page.encode("utf-8", "backslashreplace"))


def render(
  report: QualityReport,
  sample: PageSample,
  *,
  title: str = "Rationales",
  subtitle: str = "",
) -> str:
  """The page as text; see `write_page`."""
  held = sample.held()
  numbers = report.to_dict()
  del numbers["examples"]  # the records are there themselves
  main = (_FOLDER / "main.html").read_text(encoding="utf-8")
  searched = "input, rationale, answer, id"
  return standalone_page.render(
    title=title,
    kind="rationales",
    subtitle=subtitle,
    noscript="This page draws its numbers with JavaScript, from data inside it.",
    main=main + standalone_page.browser("Records", searched),
    data={
      "report": numbers,
      "kinds": sample.seen,
      "held": {
        kind: sum(record.kind == kind for record in held) for kind in KINDS
      },
      "records": [record.shown for record in held],
    },
    style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
    script=(_FOLDER / "script.js").read_text(encoding="utf-8"),
  )


def _kind(record: Record, agrees: bool | None) -> str:
  is_fine = any(
    quality_measures.is_trainable(r) for r in record.rationales
  ) and all(rationale.status == "ok" for rationale in record.rationales)
  if not is_fine:
    return FAILED
  return DISAGREES if agrees is False else FINE


def _shown(
  record: Record, kind: str, same_answer: SameAnswer
) -> dict[str, Any]:
  meta = {
    k: v for k, v in record.meta.items() if k != rationale_selection.ACCOUNT
  }
  rationales: list[dict[str, Any]] = []
  num_chars = 0
  for rationale in record.rationales[:MAX_RATIONALES]:
    rationales.append(_shown_rationale(rationale, record.label, same_answer))
    num_chars += len(json.dumps(rationales[-1]))
    if num_chars > _MAX_RECORD_CHARS:
      break
  return {
    "id": record.id,
    "kind": kind,
    "input": cut(record.input),
    "label": None if record.label is None else cut(record.label),
    "rationales": rationales,
    "more": len(record.rationales) - len(rationales),
    "meta": _facts(meta),
  }


def _shown_rationale(
  rationale: Rationale, gold: str | None, same_answer: SameAnswer
) -> dict[str, Any]:
  extra = dict(rationale.extra)
  completion = extra.pop("completion", None)
  label = rationale.label
  return {
    "text": cut(rationale.text),
    "label": None if label is None else cut(label),
    "source": rationale.source,
    "weight": rationale.weight,
    "status": rationale.status,
    "agrees": (
      None if label is None or gold is None else same_answer(label, gold)
    ),
    "completion": cut(completion) if isinstance(completion, str) else None,
    "facts": _facts(extra),
  }


def _facts(values: dict[str, Any]) -> list[list[str]]:
  """Names and values as texts, together at most MAX_TEXT_CHARS long."""
  facts: list[list[str]] = []
  room = MAX_TEXT_CHARS
  for name, value in values.items():
    text = (
      value
      if isinstance(value, str)
      else json.dumps(value, ensure_ascii=False, default=str)
    )
    fact = [name[:200], cut(text, room)]
    facts.append(fact)
    room -= sum(map(len, fact))
    if room <= 0:
      break
  return facts
