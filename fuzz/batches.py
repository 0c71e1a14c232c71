"""Folders of arrays with a header, and the files of providers' batches."""

from __future__ import annotations

import functools
import json
import pathlib

import numpy as np

from dss_jax.data.feeding import batch_files
from dss_jax.data.packing import packed_features
from dss_jax.data.tokens import array_folders, token_arrays
from dss_jax.rationales.teachers import (
  batch_requests,
  batch_results,
  provider_batches,
)
from fuzz.targets import Target, scratch, text_of

_KEY = "0" * 64
_SHAPE = {
  "rows": 2,
  "encoder_length": 4,
  "decoder_length": 3,
  "records_per_batch": 2,
  "pack": True,
}
_HEADER_WORDS = (
  "shape",
  "dtype",
  "crc32",
  "arrays",
  "num_steps",
  "shard_steps",
  "first_step",
  "subtasks",
  "rates",
  "[]",
  "-1",
  "null",
  "1e9",
  "99999999999999999999",
)


@functools.cache
def _batches() -> pathlib.Path:
  """A folder of one step's batch, written without a run."""
  folder = scratch("batches")
  specs = packed_features.feature_specs(2, 4, 3)
  with array_folders.create(folder) as writer:
    for name, spec in specs.items():
      writer.add(f"{name}.00000", np.zeros((1, *spec.shape), spec.dtype))
    writer.finish(
      {
        "format": batch_files.FORMAT,
        "version": batch_files.VERSION,
        "fingerprint": "f",
        "task_name": "t",
        "split": "train",
        "vocabulary": "v",
        "subtasks": ["label"],
        "seed": 0,
        "num_records": 2,
        "shape": _SHAPE,
        "first_step": 0,
        "num_steps": 1,
        "shard_steps": 1,
      }
    )
  return folder


@functools.cache
def _tokens() -> pathlib.Path:
  """A folder of two examples."""
  folder = scratch("tokens")
  token_arrays.ExampleSet(
    subtasks=(
      token_arrays.TokenArrays.from_lists(
        "label", [[5, 1], [6, 7, 1]], [[8, 1], [9, 1]], [0, 1], [1.0, 0.5]
      ),
    ),
    rates=(1.0,),
    paired=False,
    num_records=2,
    fingerprint="f",
    vocabulary="v",
    task_name="t",
    split="train",
  ).save(folder)
  return folder


def _header(folder: pathlib.Path) -> bytes:
  return (folder / array_folders.HEADER).read_bytes()


def _batch_header(data: bytes) -> None:
  folder = _batches()
  (folder / array_folders.HEADER).write_bytes(data)
  opened = batch_files.BatchFiles(folder)
  opened[opened.steps[0]]
  opened[opened.steps[-1]]


def _token_header(data: bytes) -> None:
  folder = _tokens()
  (folder / array_folders.HEADER).write_bytes(data)
  found = token_arrays.ExampleSet.load(folder)
  for subtask in found.subtasks:
    for index in range(len(subtask)):
      subtask.example(index)
  found.statistics()


def _array(data: bytes) -> None:
  """An array's file; its checksum would hide what a reader makes of it."""
  folder = scratch("array")
  folder.mkdir(exist_ok=True)
  (folder / "x.npy").write_bytes(data)
  entry = {"dtype": "int32", "shape": [2, 3], "crc32": 0}
  opened = array_folders.ArrayFolder(folder, {"arrays": {"x": entry}})
  found = opened.read("x", verify=False)
  assert found.shape == (2, 3)
  found.sum()


def _array_seeds() -> list[bytes]:
  path = scratch("seed.npy")
  np.save(path, np.arange(6, dtype=np.int32).reshape(2, 3))
  return [path.read_bytes()]


def _result(data: bytes) -> None:
  batch_results._read_result(text_of(data))


def _result_seeds() -> list[bytes]:
  choice = {"message": {"content": "So the answer is red."}, "index": 0}
  body = {"choices": [choice], "created": 1.5, "model": "m"}
  fault = {"error": {"message": "unknown parameter: seed", "code": 400}}
  return [
    json.dumps(line).encode()
    for line in (
      {
        "custom_id": _KEY,
        "response": {"status_code": 200, "body": body},
        "error": None,
      },
      {"custom_id": _KEY, "response": {"status_code": 400, "body": fault}},
      {"custom_id": _KEY, "error": {"code": "batch_expired", "message": "x"}},
    )
  ]


def _requests(data: bytes) -> None:
  path = scratch("requests-0.jsonl")
  path.write_bytes(data)
  for request in batch_requests.read_requests(path):
    batch_requests.tokens_of(request)


def _request_seeds() -> list[bytes]:
  body = {"model": "m", "messages": [{"role": "user", "content": "Is it?"}]}
  return [
    json.dumps(
      {
        "custom_id": _KEY,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {**body, "max_tokens": 5},
      }
    ).encode()
  ]


def _state(data: bytes) -> None:
  folder = scratch("provider")
  folder.mkdir(exist_ok=True)
  (folder / provider_batches.STATE_FILE).write_bytes(data)
  batch = provider_batches.ProviderBatch.open(folder)
  assert isinstance(batch.is_over, bool)
  assert isinstance(batch.is_submitted, bool)


def _state_seeds() -> list[bytes]:
  folder = scratch("provider_seed")
  folder.mkdir(exist_ok=True)
  file = provider_batches.BatchFile(
    "requests-0.jsonl", "m", "/v1/chat/completions", 2
  )
  provider_batches.ProviderBatch(folder, [file]).save()
  return [(folder / provider_batches.STATE_FILE).read_bytes()]


TARGETS = {
  "header": Target(_batch_header, lambda: [_header(_batches())], _HEADER_WORDS),
  "tokens": Target(_token_header, lambda: [_header(_tokens())], _HEADER_WORDS),
  "array": Target(_array, _array_seeds, ("descr", "fortran_order", "<i4")),
  "result": Target(
    _result,
    _result_seeds,
    ("custom_id", "response", "status_code", "choices", "error", "code"),
  ),
  "requests": Target(
    _requests, _request_seeds, ("custom_id", "body", "messages", "max_tokens")
  ),
  "state": Target(_state, _state_seeds, ("files", "name", "is_fetched", "../")),
}
