"""The released completions as a teacher: what PaLM and GPT-NeoX once answered.

Everything after asking then runs as with any other teacher, without a network
and without cost.
"""

from __future__ import annotations

import re
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets import released_data
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import Record
from dss_jax.rationales.teacher_requests import Completion

_ID = re.compile(r"(train|validation|test)-(\d{1,9})", re.ASCII)


class Replay:
  """Answers with the completions of a released dataset.

  Records are known by their ids: "train-17" is line 17 of the split that the
  files themselves have. Validation records that were cut off the training data
  keep such ids.

  Attributes:
    name: "palm" or "gpt-neox".
    model: the same.
    weight: weight of its rationales.
  """

  def __init__(
    self,
    dataset: str,
    split: str,
    options: DataOptions | None = None,
    *,
    weight: float = 1.0,
  ):
    """Reads the completions of a split; of other splits when they are needed.

    Args:
      dataset: a released dataset's name.
      split: "train", "validation" or "test".
      options: where the files are, and whose completions to read.
      weight: weight of its rationales relative to other teachers'.

    Raises:
      UserError: if the dataset or its completions are not there.
    """
    # Imported late, since the catalogue imports `release` as well.
    from dss_jax.datasets import shipped_datasets

    specs = {spec.name: spec for spec in shipped_datasets.SPECS}
    del specs["taxonli"]
    if dataset not in specs:
      raise UserError(
        f"no completions were released for dataset {dataset!r}; those that can"
        f" be replayed: {', '.join(sorted(specs))}",
        fields="dataset",
      )
    options = options or DataOptions()
    if options.rationale_source not in ("palm", "gpt-neox"):
      raise UserError(
        f"rationale_source is {options.rationale_source}; it must be palm or"
        " gpt-neox: one teacher is replayed at a time, and human rationales are"
        " no completions",
        fields="DataOptions.rationale_source",
      )
    self.name = self.model = options.rationale_source
    self.weight = weight
    self._dataset = dataset
    self._options = options
    self._texts: dict[str, list[str]] = {}
    self._split_texts(
      split if split in specs[dataset].source_splits else "train"
    )

  def __getstate__(self) -> dict[str, Any]:
    """A copy reads the completions where it is, rather than carry them."""
    return {**self.__dict__, "_texts": {}}

  def answer(self, record: Record) -> Completion | None:
    """The completion of the record's line; None if its id names no line.

    Raises:
      UserError: if the files of its split are missing or malformed.
    """
    match = _ID.fullmatch(record.id)
    if match is None:
      return None
    texts = self._split_texts(match[1])
    number = int(match[2])
    if number >= len(texts):
      return None
    # How a completion ended was not released: only its text can say.
    return Completion(texts[number], finish_reason="", model=self.model)

  def _split_texts(self, split: str) -> list[str]:
    if split not in self._texts:
      texts = released_data.completion_texts(
        self._dataset, split, self._options
      )
      if texts is None:
        folder = self._options.dataset_folder(self._dataset)
        raise UserError(
          f"no completions of {self.name} for {self._dataset} in {folder}",
          fields="DataOptions.data_dir",
        )
      self._texts[split] = texts
    return self._texts[split]
