"""A distillation: its options, its files, and what is written into them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.base import atomic_files, checks
from dss_jax.base.errors import UserError, damaged_file

SPLITS = ("train", "validation", "test")
# Shares of the table that are held out, and the most records that are.
HELD_OUT = {"validation": (0.15, 1000), "test": (0.2, 2000)}
# With fewer records nothing could be measured.
MIN_RECORDS = 50

# Options that may differ when a distillation is continued.
_FREE = (
  *("max_cost", "yes", "base_url", "api_key_env", "concurrency"),
  *("min_yield", "partial"),
)


@dataclasses.dataclass(frozen=True)
class DistillOptions:
  """What is distilled, by whom, and into what.

  Attributes:
    input: your table: .jsonl, .csv, .tsv, .parquet, ...; needs inputs and
      labels.
    output_dir: folder of everything; the same command continues there.
    model: the large model, as its endpoint names it.
    field_mapping: which key of --input holds a field: input=text label=team.
    base_url: of the OpenAI-compatible endpoint, such as
      http://127.0.0.1:8000/v1; default: OpenAI's.
    api_key_env: environment variable with the key; a server on this machine
      needs none.
    max_cost: the most that answers may cost; needs the model's price.
    prompt: a TOML prompt file; default: one is drafted, for you to improve.
    max_tokens: longest answer of the large model, in its tokens.
    concurrency: most requests under way at once.
    min_yield: share of the first answers whose label must be readable, else the
      command stops there; default: 0.5.
    student: small (from random parameters, on any machine), a gin file of a
      model, or a checkpoint to start from: a Hugging Face folder or hub id such
      as google/flan-t5-small, or T5X's.
    vocabulary: of --student, where it brings none; a small one gets its own.
    minutes: how long training may take in all, about.
    seeds: runs of each method that are compared.
    partial: train on the records that were answered, where answers are missing.
    yes: do not ask before the large model is asked.
  """

  input: str
  output_dir: str
  model: str
  field_mapping: tuple[str, ...] = ()
  base_url: str | None = None
  api_key_env: str = "OPENAI_API_KEY"
  max_cost: float | None = None
  prompt: str | None = None
  max_tokens: int = 256
  concurrency: int = 8
  min_yield: float | None = None
  student: str = "small"
  vocabulary: str | None = None
  minutes: float = 15.0
  seeds: int = 3
  partial: bool = False
  yes: bool = False

  def __post_init__(self):
    checks.in_range("DistillOptions.minutes", self.minutes, 0.1)
    checks.in_range("DistillOptions.seeds", self.seeds, 1, 100, whole=True)


@dataclasses.dataclass(frozen=True)
class Project:
  """The folder of a distillation.

  Attributes:
    options: of the distillation.
    dataset: the name that the table gets, from its file's.
  """

  options: DistillOptions
  dataset: str

  @classmethod
  def of(cls, options: DistillOptions) -> Project:
    """The project that the options describe."""
    name = re.sub(r"\W+", "_", pathlib.Path(options.input).stem).strip("_")
    name = name.lower() or "table"
    shipped = {spec.name for spec in datasets.SHIPPED}
    if not name.isidentifier() or name in shipped:
      name = f"own_{name}"
    return cls(options, name)

  @property
  def folder(self) -> pathlib.Path:
    return pathlib.Path(self.options.output_dir)

  @property
  def module(self) -> str:
    """The Python module that registers the dataset."""
    return f"{self.dataset}_task"

  @property
  def state_file(self) -> pathlib.Path:
    return self.folder / "distill.json"

  @property
  def vocabulary_file(self) -> pathlib.Path:
    return self.folder / "vocabulary.model"

  @property
  def runs_folder(self) -> pathlib.Path:
    """The sweep's runs, with its results in a folder named after its file."""
    return self.folder / "runs"

  @property
  def prompt(self) -> pathlib.Path:
    if self.options.prompt:
      return pathlib.Path(self.options.prompt)
    return self.folder / "prompt.toml"

  def table(self, split: str) -> pathlib.Path:
    """The user's records of a split."""
    return self.folder / "data" / f"{split}.jsonl"

  def records(self, split: str) -> pathlib.Path:
    """The same with the large model's rationales."""
    return self.folder / "records" / f"{split}.jsonl"

  @property
  def ledger(self) -> pathlib.Path:
    """What the large model was asked and answered."""
    return self.folder / "records" / "ledger.sqlite"

  @property
  def is_from_scratch(self) -> bool:
    """Whether the student starts from random parameters."""
    student = self.options.student
    return student == "small" or student.endswith(".gin")

  def read_state(self) -> dict[str, Any]:
    """What earlier starts noted; empty at the first one.

    Raises:
      UserError: the folder holds another distillation.
    """
    if not self.state_file.exists():
      return {}
    with damaged_file(self.state_file, "delete it"):
      state = json.loads(self.state_file.read_text(encoding="utf-8"))
      earlier = state["options"]
    for name, value in self._kept_options().items():
      if earlier.get(name) != value:
        raise UserError(
          f"{self.folder} holds a distillation with {name}"
          f" {earlier.get(name)!r}, now it is {value!r}: give it as before, or"
          " choose another output_dir",
          fields=f"DistillOptions.{name}",
        )
    return state

  def write_state(self, state: Mapping[str, Any]) -> None:
    """Notes how far the distillation is."""
    state = {"options": self._kept_options(), **state}
    text = json.dumps(state, indent=2, ensure_ascii=False) + "\n"
    atomic_files.write_atomically(self.state_file, text)

  def _kept_options(self) -> dict[str, Any]:
    """The options that a continued distillation must have again, as JSON."""
    kept = dataclasses.asdict(self.options)
    kept = {name: kept[name] for name in kept if name not in _FREE}
    return json.loads(json.dumps(kept))


def held_out_shares(num_records: int, num_labels: int) -> dict[str, float]:
  """Shares of a table to hold out, by split.

  Args:
    num_records: usable ones.
    num_labels: how many of them have a label.

  Raises:
    UserError: for a table in which nothing could be measured.
  """
  if num_labels < num_records:
    raise UserError(
      f"{num_records - num_labels} of {num_records} records have no label, and"
      " without labels nothing can be compared: leave them out, or map the key"
      " that holds labels, as label=KEY",
      fields="DistillOptions.field_mapping",
    )
  if num_records < MIN_RECORDS:
    raise UserError(
      f"the table has {num_records} usable records; at least {MIN_RECORDS} are"
      " needed to hold some out and train on the others",
      fields="DistillOptions.input",
    )
  return {
    split: round(min(share, most / num_records), 4)
    for split, (share, most) in HELD_OUT.items()
  }


def module_text(project: Project, labels: Sequence[str]) -> str:
  """Source of the module that registers the records as a dataset.

  Args:
    project: names the dataset.
    labels: all labels there are; empty if they are no closed set.
  """
  return f'''"""The dataset `{project.dataset}`: `--module={project.module}`."""

import pathlib

from dss_jax import datasets

_FOLDER = pathlib.Path(__file__).parent
_SPLITS = {SPLITS!r}


def _file(split):
  """The records with rationales, once the large model has written them."""
  extracted = _FOLDER / "records" / f"{{split}}.jsonl"
  return extracted if extracted.exists() else _FOLDER / "data" / extracted.name



datasets.register(
  datasets.DatasetSpec(
    {project.dataset!r},
    datasets.RecordFiles({{split: _file(split) for split in _SPLITS}}),
    labels={tuple(labels) or None!r},
    source_splits=_SPLITS,
  )
)
'''
