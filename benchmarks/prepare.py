"""Batch files for the benchmarks that run on an accelerator.

    python benchmarks/prepare.py --data_dir DIR --vocabulary SPM_MODEL
    python benchmarks/prepare.py                           # synthetic, CQA's lengths

Packed batches of the official pairing (a record's label and its rationale in
the same batch), for each number of records and each wish for row lengths, in
folders named RECORDS_RECORDS-LENGTHxLENGTH. Made where the data is; read where
the accelerator is, with NumPy alone. What the official recipe trains on, padded
pairs of the same records, is read from the same files.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import measuring
import numpy as np
from input_pipeline import released_example_set, synthetic_example_set

from dss_jax.data.feeding.batch_files import BatchFiles, write_batches
from dss_jax.data.feeding.batches import PackedBatches
from dss_jax.data.packing.batch_shapes import choose_batch_shape
from dss_jax.data.packing.packed_features import PackedExample, unpack
from dss_jax.data.tokens.token_arrays import ExampleSet

FOLDER = pathlib.Path(__file__).parent / "build" / "batches"
# Of each number of records a batch: enough that batches differ.
_STEPS = {64: 8, 512: 4}
SUBTASKS = ("label", "rationale")


# Sizes for tests: some records come twice, and nothing is searched for.
SMOKE_EXAMPLES = {"num_records": 24, "vocab_size": 500}
SMOKE_BATCHES = {"records": 6, "encoder_length": 256, "decoder_length": 96}


class Record(NamedTuple):
  """A record's two examples: ids with their EOS, without padding."""

  record: int
  label: tuple[list[int], list[int]]  # inputs, targets
  rationale: tuple[list[int], list[int]]


def example_set(
  data_dir: str | None,
  vocabulary: str,
  *,
  num_records: int | None = None,
  vocab_size: int = 8000,
) -> ExampleSet:
  """The released CQA, paired; or as many records of random tokens."""
  if data_dir:
    return released_example_set("cqa_dss_paired", data_dir, vocabulary)
  records = {"num_records": num_records} if num_records else {}
  return synthetic_example_set(paired=True, vocab_size=vocab_size, **records)


def write(
  folder: pathlib.Path,
  examples: ExampleSet,
  *,
  records: int,
  steps: int,
  attention_length: int = 600,
  **wishes: Any,
) -> pathlib.Path:
  """Writes some steps' batches; `wishes` are `choose_batch_shape`'s.

  Returns:
    Their folder, a new one in `folder`.
  """
  shape = choose_batch_shape(
    examples,
    records_per_batch=records,
    attention_length=attention_length,
    **wishes,
  )
  name = f"{records}_records-{shape.encoder_length}x{shape.decoder_length}"
  write_batches(
    folder / name, PackedBatches(examples, shape, seed=0), range(steps)
  )
  return folder / name


def found(folder: pathlib.Path, records: int) -> list[pathlib.Path]:
  """The folders of so many records a batch, the shortest rows first."""
  folders = folder.glob(f"{records}_records-*")
  return sorted(folders, key=lambda path: BatchFiles(path).shape.encoder_length)


def records_of(batch: Mapping[str, np.ndarray]) -> list[Record]:
  """The records of a packed batch; one of two epochs comes twice."""
  examples: dict[str, list[PackedExample]] = {name: [] for name in SUBTASKS}
  for example in unpack(batch):
    examples[SUBTASKS[example.subtask]].append(example)
  label, rationale = (
    sorted(each, key=lambda example: example.record)
    for each in examples.values()
  )
  return [
    Record(a.record, (a.inputs, a.targets), (b.inputs, b.targets))
    for a, b in zip(label, rationale, strict=True)
  ]


def padded(rows: Sequence[Sequence[int]], padding: int, multiple: int = 1):
  """[rows, longest, rounded up] int64."""
  longest = -(-max(map(len, rows)) // multiple) * multiple
  full = [[*row, *[padding] * (longest - len(row))] for row in rows]
  return np.array(full, np.int64)


def batches_of_records(files: BatchFiles) -> Iterator[list[Record]]:
  """The files' records, in batches of exactly `records_per_batch`.

  Packing moves a record into a neighbouring batch now and then; the official
  recipe has as many in each. What is left over is left out.
  """
  size = files.shape.records_per_batch
  waiting: list[Record] = []
  for step in files.steps:
    waiting += records_of(files[step])
    while len(waiting) >= size:
      yield waiting[:size]
      waiting = waiting[size:]


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data_dir", help="folder with the released data")
  parser.add_argument(
    "--vocabulary", default="bytes", help="with --data_dir: a name or a model"
  )
  parser.add_argument("--out", type=pathlib.Path, default=FOLDER)
  parser.add_argument("--records", type=int, nargs="+", default=list(_STEPS))
  parser.add_argument("--steps", type=int, help="batches of each kind")
  parser.add_argument(
    "--attention_lengths",
    type=int,
    nargs="+",
    default=[600, 4096],
    help="the smaller, the shorter the rows",
  )
  parser.add_argument(
    "--length_multiples",
    type=int,
    nargs="+",
    default=[8, 64],
    help="some kernels of attention take whole blocks only",
  )
  parser.add_argument(
    "--rows_multiple_of", type=int, default=4, help="for micro-batches"
  )
  args = parser.parse_args(arguments)
  examples = example_set(args.data_dir, args.vocabulary)
  for records in args.records:
    for attention_length, multiple in itertools.product(
      args.attention_lengths, args.length_multiples
    ):
      folder = write(
        args.out,
        examples,
        records=records,
        steps=args.steps or _STEPS.get(records, 4),
        attention_length=attention_length,
        length_multiple=multiple,
        rows_multiple_of=args.rows_multiple_of,
      )
      size = sum(path.stat().st_size for path in folder.iterdir())
      shape = BatchFiles(folder).shape
      print(
        f"{folder}: {shape.rows} rows of {shape.encoder_length} +"
        f" {shape.decoder_length} tokens, {size / 2**20:.1f} MiB"
      )


if __name__ == "__main__":
  measuring.run(main)
