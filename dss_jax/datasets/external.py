"""The raw sets from TensorFlow Datasets and Hugging Face.

Both are optional, and neither has the teacher's completions: rationales are
the human explanations, where the set has them. Entries become records exactly as
those of the released files do (see `raw_records.py`).

    dataset      TFDS       Hugging Face                       train / val. / test
    esnli        esnli      esnli/esnli                        549,367 / 9,842 / 9,824
    anli1..3     anli/r1..  facebook/anli (splits train_r1..)  16,946 / 1,000 / 1,000 (r1)
    cqa          cos_e      Salesforce/cos_e v1.11             9,741 / - / 1,221
    svamp        -          ChilleD/SVAMP                      700 / - / 300

CoS-E's validation data are the official code's test data. SVAMP's split there
is another one than the official 800 / 200.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import socket
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets import raw_records
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import (
  Record,
)


@dataclasses.dataclass(frozen=True)
class _Source:
  """Where a library keeps a dataset.

  Attributes:
    name: the library's name of it.
    config: of the name, or None.
    splits: our split -> theirs.
    host: where the library downloads it from, if that is asked first.
  """

  name: str
  config: str | None
  splits: Mapping[str, str]
  host: str | None = None


_ALL = {"train": "train", "validation": "validation", "test": "test"}
_NO_VALIDATION = {"train": "train", "test": "test"}
_GITHUB = "raw.githubusercontent.com"
_ANLI = "dl.fbaipublicfiles.com"
_COS_E = {"train": "train", "test": "validation"}

TFDS_SOURCES = {
  "esnli": _Source("esnli", None, _ALL, _GITHUB),
  "anli1": _Source("anli", "r1", _ALL, _ANLI),
  "anli2": _Source("anli", "r2", _ALL, _ANLI),
  "anli3": _Source("anli", "r3", _ALL, _ANLI),
  "cqa": _Source("cos_e", None, _COS_E, _GITHUB),
}
HUGGINGFACE_SOURCES = {
  "esnli": _Source("esnli/esnli", None, _ALL),
  **{
    f"anli{number}": _Source(
      "facebook/anli",
      None,
      {
        "train": f"train_r{number}",
        "validation": f"dev_r{number}",
        "test": f"test_r{number}",
      },
    )
    for number in (1, 2, 3)
  },
  "cqa": _Source("Salesforce/cos_e", "v1.11", _COS_E),
  "svamp": _Source("ChilleD/SVAMP", None, _NO_VALIDATION),
}


def load(dataset: str, split: str, options: DataOptions) -> list[Record]:
  """One split of a raw set, from the library that `options.source` names.

  Args:
    dataset: "esnli", "anli1", "anli2", "anli3", "cqa" or "svamp".
    split: "train", "validation" (where there is one) or "test".
    options: `source` is "tfds" or "huggingface". `data_dir`, if given, is a
      copy on disk: TFDS's data folder or one builder's folder in it, or what
      `Dataset.save_to_disk` wrote; else the library downloads.

  Raises:
    UserError: if the library is not installed, or does not have the data.
  """
  known = TFDS_SOURCES if options.source == "tfds" else HUGGINGFACE_SOURCES
  if dataset not in known:
    raise UserError(
      f"{options.source} has no {dataset!r}; it has: {', '.join(known)}",
      fields="DataOptions.source",
    )
  source = known[dataset]
  if split not in source.splits:
    raise UserError(
      f"{dataset} has no {split!r} data in {options.source}; it has:"
      f" {', '.join(source.splits)}"
    )
  read = _tfds_entries if options.source == "tfds" else _huggingface_entries
  entries = read(source, source.splits[split], options.data_dir)
  return list(_records(dataset, split, entries))


def _records(
  dataset: str, split: str, entries: Iterable[Mapping[str, Any]]
) -> Iterator[Record]:
  read = raw_records.READERS[dataset]
  for number, entry in enumerate(entries):
    try:
      example = read(entry)
    except UserError as error:
      raise UserError(f"{dataset} {split} entry {number}: {error}") from None
    yield example.record(split, number, example.human_rationales())


def _tfds_entries(
  source: _Source, split: str, data_dir: str | None
) -> Iterator[Mapping[str, Any]]:
  """Entries of a TFDS builder, in the order of its shards."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise _not_installed("tensorflow_datasets", error) from None
  name = "/".join(filter(None, (source.name, source.config)))
  builder: Any
  try:
    if data_dir and (pathlib.Path(data_dir) / "dataset_info.json").exists():
      builder = tfds.builder_from_directory(os.fspath(data_dir))
    else:
      builder = tfds.builder(name, data_dir=data_dir)
      if not builder.is_prepared():
        _check_network(source.host)
        builder.download_and_prepare()
    if split not in builder.info.splits:
      raise UserError(
        f"TFDS's {name} has no split {split!r}; it has:"
        f" {', '.join(builder.info.splits)}"
      )
    features: Any = builder.info.features
    dataset: Any = builder.as_dataset(
      split,
      shuffle_files=False,
      # One shard after the other, not interleaved: ids follow this order.
      read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
  except UserError:
    raise
  except Exception as error:  # every backend has errors of its own
    raise _not_available(f"TFDS's {name}", error) from None
  names = getattr(dict(features).get("label"), "names", None)
  for entry in tfds.as_numpy(dataset):
    plain = {key: _from_numpy(value) for key, value in entry.items()}
    if names is not None:
      # By name: the integers of a label are the builder's own business.
      plain["label"] = names[plain["label"]] if plain["label"] >= 0 else -1
    yield plain


def _check_network(host: str | None):
  """Fails within seconds where the library would try for minutes."""
  if host is None or urllib.request.getproxies():
    return
  socket.create_connection((host, 443), timeout=10).close()


def _from_numpy(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode("utf-8", errors="replace")
  if hasattr(value, "tolist"):
    value = value.tolist()
  if isinstance(value, list):
    return [_from_numpy(item) for item in value]
  return value


def _huggingface_entries(
  source: _Source, split: str, data_dir: str | None
) -> Iterator[Mapping[str, Any]]:
  """Entries of a Hugging Face dataset, in its order."""
  try:
    # Not dss_jax.datasets: the library of that name. By its name, because a
    # type checker takes it for the folder where the library is absent.
    huggingface: Any = importlib.import_module("datasets")
  except ImportError as error:
    raise _not_installed("datasets", error) from None
  try:
    if data_dir:
      dataset = huggingface.load_from_disk(os.fspath(data_dir))
    else:
      dataset = _from_hub(huggingface, source)
    if not isinstance(dataset, huggingface.DatasetDict):
      raise UserError(
        f"{data_dir} holds a single split; save a DatasetDict with"
        f" {', '.join(source.splits.values())}"
      )
    if split not in dataset:
      raise UserError(
        f"Hugging Face's {source.name} has no split {split!r}; it has:"
        f" {', '.join(map(str, dataset))}"
      )
    entries = dataset[split]
  except UserError:
    raise
  except Exception as error:  # the hub's errors have no common base
    raise _not_available(f"Hugging Face's {source.name}", error) from None
  names = getattr(entries.features.get("label"), "names", None)
  for entry in entries:
    entry = dict(entry)
    label = entry.get("label")
    if names is not None and isinstance(label, int) and label >= 0:
      entry["label"] = names[label]
    yield entry


def _from_hub(huggingface: Any, source: _Source) -> Any:
  try:
    return huggingface.load_dataset(source.name, source.config)
  except RuntimeError as error:
    if "script" not in str(error):
      raise
    # Kept on the Hub as a program, which the library no longer runs (since
    # version 4); the Hub itself keeps a Parquet copy of such sets.
    return huggingface.load_dataset(
      source.name, source.config, revision="refs/convert/parquet"
    )


def _not_installed(package: str, error: ImportError) -> UserError:
  hint = "pip install "
  hint += "'dss_jax[hf]'" if package == "datasets" else "tensorflow-datasets"
  return UserError(
    f"the package {package} cannot be imported ({error}); {hint}, or set"
    " source to 'release'",
    fields="DataOptions.source",
  )


def _not_available(what: str, error: Exception) -> UserError:
  reason = str(error).strip().splitlines()
  first = reason[0][:200] if reason else type(error).__name__
  return UserError(
    f"{what} cannot be loaded: {first} (without a network, set data_dir to a"
    " copy on disk)",
    fields="DataOptions.data_dir",
  )
