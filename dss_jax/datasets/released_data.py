"""The officially released files: raw examples and teachers' completions.

The archive `datasets.zip` of github.com/google-research/distilling-step-by-step
unpacks to

    cqa/cqa_{train,test}.json             one JSON object a line
    cqa/llm/{train,test}_CoT_{0,1,..}.json   lists of completions, in entry order
    gpt-neox/cqa/{train,test}.json        another teacher's completions

and likewise for svamp, anli1 and esnli (the latter two also with `valid`).
Copies that call the folder `palm` instead of `llm` are read as well. ANLI's
rounds 2 and 3, and ASDiv, were not released; files of the same layout are read
the same way, with or without completions. ASDiv is also read as its authors
publish it (asdiv/ASDiv.xml).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets import asdiv_xml, completions, raw_records
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import Rationale, Record, iter_entries

# Bytes of one file of completions; the largest released one has 2.5 million.
MAX_COMPLETIONS_BYTES = 1 << 28

_COMPLETION_FOLDERS = ("llm", "palm")
_FILE_SPLITS = {"train": "train", "validation": "valid", "test": "test"}

# SVAMP's original file has no split; the official code shuffles it.
_SVAMP_TRAIN_ENTRIES = 800


def load(dataset: str, split: str, options: DataOptions) -> list[Record]:
  """Reads one split of a released dataset.

  Args:
    dataset: "svamp", "asdiv", "cqa", "esnli", "anli1", "anli2" or "anli3".
    split: "train", "validation" (where released) or "test".
    options: data folder, parser and rationale source.

  Returns:
    One record per entry, in file order, with ids such as "train-17". An entry whose
    completion cannot be used keeps it in `meta["completion"]` (by teacher, where
    several are read), and says why in its rationale's status.

  Raises:
    UserError: if files are missing, malformed, or do not fit each other.
  """
  folder = options.dataset_folder(dataset)
  entries = list(_raw_entries(dataset, split, folder))
  rationales: list[list[Rationale]] = [[] for _ in entries]
  unused: list[dict[str, str]] = [{} for _ in entries]
  several = len(options.rationale_sources) > 1
  for source in options.rationale_sources:
    if source == "human":
      for found, entry in zip(rationales, entries):
        found += entry.human_rationales()
      continue
    texts = _completions(dataset, split, folder, source)
    if texts is None:
      continue
    if len(texts) != len(entries):
      raise UserError(
        f"{dataset} {split}: {len(entries)} entries and {len(texts)} completions"
        f" of {source} in {folder}; each entry needs one (is a file missing?)"
      )
    parse = completions.parser(dataset, options.parser, source)
    for number, (entry, text) in enumerate(zip(entries, texts)):
      parsed = parse(text, entry.choices)
      rationales[number].append(
        Rationale(parsed.rationale, parsed.label, source, status=parsed.status)
      )
      if parsed.status != "ok":
        unused[number][source] = text
  return [
    entry.record(
      split,
      number,
      rationales[number],
      unused[number] if several else "".join(unused[number].values()),
    )
    for number, entry in enumerate(entries)
  ]


def _raw_entries(
  dataset: str, split: str, folder: pathlib.Path
) -> Iterator[raw_records.RawRecord]:
  """The examples of a split; an entry that is none is an error, because every
  completion after it would belong to the wrong entry."""
  read = raw_records.READERS[dataset]
  path = folder / f"{dataset}_{_FILE_SPLITS[split]}.json"
  entries: Iterator[tuple[int, Mapping[str, Any] | UserError]]
  if dataset == "svamp" and not path.exists() and _svamp_file(folder).exists():
    path = _svamp_file(folder)
    entries = iter(_shuffled_svamp(list(iter_entries(path)), split))
  elif dataset == "asdiv" and not path.exists():
    path = folder / "ASDiv.xml"
    entries = enumerate(asdiv_xml.entries(path), 1)
  else:
    entries = iter_entries(path)
  for number, entry in entries:
    try:
      if isinstance(entry, UserError):
        raise entry
      yield read(entry)
    except UserError as error:
      raise UserError(f"{path}:{number}: {error}") from None


def _svamp_file(folder: pathlib.Path) -> pathlib.Path:
  return folder / "SVAMP.json"


def _shuffled_svamp(entries: list, split: str) -> list:
  """The official split of the original file.

  RandomState's stream is frozen (NumPy's NEP 19), so this order is for good.
  """
  order = np.random.RandomState(0).permutation(len(entries))
  part = slice(_SVAMP_TRAIN_ENTRIES)
  if split == "test":
    part = slice(_SVAMP_TRAIN_ENTRIES, None)
  return [entries[i] for i in order[part]]


def completion_texts(
  dataset: str, split: str, options: DataOptions
) -> list[str] | None:
  """A split's completions in entry order, as they came from the teacher.

  Args:
    dataset: as for `load`.
    split: as for `load`.
    options: data folder and rationale source.

  Returns:
    One text per entry of `load`; None if none were released.

  Raises:
    UserError: if files are missing or malformed.
  """
  folder = options.dataset_folder(dataset)
  return _completions(dataset, split, folder, options.rationale_source)


def _completions(
  dataset: str, split: str, folder: pathlib.Path, source: str
) -> list[str] | None:
  name = _FILE_SPLITS[split]
  if source == "gpt-neox":
    path = folder.parent / "gpt-neox" / dataset / f"{name}.json"
    if not path.exists():
      raise UserError(
        f"no completions of {source} for {dataset} {split}: {path} is missing",
        fields="DataOptions.rationale_source",
      )
    return _read_completions(path)
  for inner in _COMPLETION_FOLDERS:
    if (folder / inner).is_dir():
      break
  else:
    return None
  texts: list[str] = []
  number = 0
  while (path := folder / inner / f"{name}_CoT_{number}.json").exists():
    texts += _read_completions(path)
    number += 1
  if not number:
    raise UserError(f"no completions for {dataset} {split}: {path} is missing")
  return texts


def _read_completions(path: pathlib.Path) -> list[str]:
  """One file: a JSON list of texts."""
  size = path.stat().st_size
  if size > MAX_COMPLETIONS_BYTES:
    raise UserError(
      f"{path}: {size} bytes, at most {MAX_COMPLETIONS_BYTES} are allowed"
    )
  try:
    texts = strict_json.loads(path.read_bytes().decode("utf-8"))
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: not valid UTF-8 (byte {error.start})") from None
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  if not isinstance(texts, list):
    raise UserError(f"{path}: not a list of completions")
  for number, text in enumerate(texts):
    if not isinstance(text, str):
      raise UserError(f"{path}: completion {number} is not text")
  return texts
