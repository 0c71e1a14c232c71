"""Which records a run sees: source, parser, splits, fraction."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from dss_jax.base import checks
from dss_jax.base.errors import UserError

DATA_DIR_VARIABLE = "DSS_DATA_DIR"

# What stands in the rationales of generated records; see `generator.generate`.
CONTROLS = ("none", "facts_only", "shuffled", "copy")

RATIONALE_SOURCES = ("palm", "gpt-neox", "human")

_CHOICES = {
  "source": ("release", "tfds", "huggingface", "records"),
  "split_policy": ("fixed", "official"),
  "parser": ("official", "tolerant"),
  "label_spelling": ("as_is", "normalized"),
  "taxonli_control": CONTROLS,
  "generated_control": CONTROLS,
}


@dataclasses.dataclass(frozen=True)
class DataOptions:
  """Options of `load_split`; gin binds them as `data.DataOptions.NAME`.

  Attributes:
    data_dir: the folder with the released data (the unzipped `datasets.zip`,
      with one folder per dataset). If None, the environment variable
      DSS_DATA_DIR, looked up only when a dataset needs it.
    source: where the raw examples come from. "release": the official files,
      with the teacher's completions. "tfds", "huggingface": those libraries'
      copies of the raw sets, with human rationales at most. "records": files
      of records in `data_dir`, for any dataset; see `record_files.py`.
    split_policy: "fixed" cuts a tenth of the training data off for validation
      first (where the dataset has no validation data of its own), then takes
      nested fractions of the rest. "official" takes the fraction first and
      then the tenth, with the random numbers of the official code.
    train_fraction: share of the training data to use, in (0, 1].
    split_seed: seed of the fixed split, or of the official subsampling (the
      official code calls it `run`); the official validation cut has seed 0.
    parser: "official" reads completions exactly as the official code does;
      "tolerant" reads more of them and says why it does not read the rest.
    rationale_source: who wrote the rationales. "palm" and "gpt-neox" are the
      released completions; "human" the explanations in the raw sets. Several
      are joined: "palm+gpt-neox" gives each record a rationale of each.
    label_spelling: "normalized" writes arithmetic labels, gold and teacher's,
      in one spelling: `( 84.0 / 2.0 )` and `(84 / 2)` become `(84 / 2)`.
    extra_records: further training records, such as unlabelled ones that a
      teacher has answered: a file of records, or the name of a dataset whose
      training data they are. They join the training data whole, after the split
      and the fraction, and those without gold label have the teacher's.
    max_records: at most this many records per split, for debugging; extra
      records, which come on top of them, stay.
    taxonli_num_train: training records of taxonli, before the fraction.
    taxonli_num_validation: validation records of taxonli.
    taxonli_num_test: test records of taxonli.
    taxonli_seed: which records taxonli draws.
    taxonli_control: what stands in taxonli's rationales; see `taxonli.py`.
    generated_num_train: training records of another generated dataset (kinds,
      fits, odd_one, places, sums, counts), before the fraction.
    generated_num_validation: its validation records.
    generated_num_test: its test records.
    generated_seed: which records it draws.
    generated_control: what stands in its rationales.
  """

  data_dir: str | None = None
  source: str = "release"
  split_policy: str = "fixed"
  train_fraction: float = 1.0
  split_seed: int = 0
  parser: str = "official"
  rationale_source: str = "palm"
  label_spelling: str = "as_is"
  extra_records: str | None = None
  max_records: int | None = None
  taxonli_num_train: int = 4000
  taxonli_num_validation: int = 500
  taxonli_num_test: int = 1000
  taxonli_seed: int = 0
  taxonli_control: str = "none"
  generated_num_train: int = 4000
  generated_num_validation: int = 500
  generated_num_test: int = 1000
  generated_seed: int = 0
  generated_control: str = "none"

  def __post_init__(self):
    for name, allowed in _CHOICES.items():
      checks.one_of(f"DataOptions.{name}", getattr(self, name), allowed)
    for source in self.rationale_sources:
      if source not in RATIONALE_SOURCES or (
        self.rationale_sources.count(source) > 1
      ):
        raise UserError(
          f"rationale_source is {self.rationale_source!r}; it must be one of"
          f" {', '.join(RATIONALE_SOURCES)}, or several joined by '+'",
          fields="DataOptions.rationale_source",
        )
    fraction = self.train_fraction
    if not (isinstance(fraction, int | float) and 0 < fraction <= 1):
      raise UserError(
        f"train_fraction is {fraction!r}; it must be above 0 and at most 1",
        fields="DataOptions.train_fraction",
      )
    checks.in_range(
      "DataOptions.max_records", self.max_records, 1, or_none=True, whole=True
    )
    checks.in_range("DataOptions.split_seed", self.split_seed, 0, whole=True)
    for name in ("taxonli_seed", "generated_seed"):
      checks.in_range(f"DataOptions.{name}", getattr(self, name), 0, whole=True)

  @property
  def rationale_sources(self) -> tuple[str, ...]:
    """The sources that `rationale_source` joins."""
    return tuple(str(self.rationale_source).split("+"))

  def dataset_folder(self, dataset: str) -> pathlib.Path:
    """The folder of a released dataset.

    Args:
      dataset: its name, which is also the folder's.

    Raises:
      UserError: if no data folder is given, or it holds no such dataset.
    """
    root = self.data_folder(f"dataset {dataset!r} is read from released files")
    # The official archive unpacks to a folder of this name.
    for folder in (root / dataset, root / "datasets" / dataset):
      if folder.is_dir():
        return folder
    raise UserError(
      f"no folder {dataset!r} in {root}: data_dir or {DATA_DIR_VARIABLE} must"
      " name the folder that the released archive unpacks to",
      fields="DataOptions.data_dir",
    )

  def data_folder(self, purpose: str) -> pathlib.Path:
    """`data_dir`, or what the environment says; it need not exist.

    Args:
      purpose: begins the message if neither is given.

    Raises:
      UserError: if neither is given.
    """
    data_dir = self.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not data_dir:
      raise UserError(
        f"{purpose}: set data_dir or {DATA_DIR_VARIABLE} to their folder",
        fields="DataOptions.data_dir",
      )
    return pathlib.Path(data_dir).expanduser()
