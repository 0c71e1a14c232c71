"""How fast batches are made, and how much of them is padding.

    python benchmarks/input_pipeline.py --data_dir DIR --vocabulary SPM_MODEL

Sampling, packing and filling, from token arrays to the finished numpy arrays
of a batch, on the released CQA (or another task); without --data_dir, on
synthetic tokens with CQA's lengths. Needs numpy only: no JAX, no device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

import measuring
import numpy as np

from dss_jax.data.feeding.batches import PackedBatches
from dss_jax.data.feeding.prefetching import Prefetcher
from dss_jax.data.packing.batch_shapes import choose_batch_shape
from dss_jax.data.packing.packing_plans import BatchShape, window_batches
from dss_jax.data.sampling import Sampler
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays

# CQA's training records, and its lengths in tokens under an 8k vocabulary.
_NUM_RECORDS = 8766


def synthetic_example_set(
  seed: int = 0,
  *,
  num_records: int = _NUM_RECORDS,
  vocab_size: int = 8000,
  paired: bool = False,
) -> ExampleSet:
  """Random tokens in examples of about CQA's lengths."""
  rng = np.random.default_rng(seed)

  def lists(mean, deviation, least, most):
    lengths = rng.normal(mean, deviation, num_records).round().astype(int)
    return [
      [*rng.integers(2, vocab_size, n - 1).tolist(), 1]
      for n in np.clip(lengths, least, most)
    ]

  questions = lists(52, 9, 28, 107)
  return ExampleSet(
    subtasks=(
      TokenArrays.from_lists("label", questions, lists(2.6, 0.8, 2, 8)),
      TokenArrays.from_lists("rationale", questions, lists(30.4, 6, 5, 77)),
    ),
    rates=(1.0, 1.0),
    paired=paired,
    num_records=num_records,
    fingerprint=f"synthetic-{seed}-{num_records}-{vocab_size}",
    vocabulary="none",
    task_name="synthetic_dss",
    split="train",
  )


def released_example_set(
  task_name: str, data_dir: str, vocabulary: str
) -> ExampleSet:
  """The training split of a task, tokenised now."""
  from dss_jax import datasets, vocabularies
  from dss_jax.data.tokens import tokenization

  return tokenization.build_examples(
    task_name,
    "train",
    vocabularies.from_name(vocabulary),
    datasets.DataOptions(data_dir=data_dir),
  )


def measure(
  example_set: ExampleSet, shape: BatchShape, *, repeats: int
) -> dict[str, object]:
  """Padding of an epoch, and speed; each repeat under another seed.

  Whole windows of batches are timed, an epoch or more: what was planned but
  not yet filled when the clock stopped would count as work for nothing.
  """
  epoch = -(-example_set.num_records // shape.records_per_batch)
  window = 1
  if shape.pack:
    sampler = Sampler(example_set, seed=0)
    window = window_batches(sampler.units_per_batch(shape.records_per_batch))
  steps = -(-epoch // window) * window
  records = steps * shape.records_per_batch
  wall, cpu, cold, prefetched, padding = [], [], [], [], []
  for seed in range(repeats):
    batches = PackedBatches(example_set, shape, seed=seed)
    start, start_cpu = time.perf_counter(), time.process_time()
    batches[0]
    cold.append(time.perf_counter() - start)
    for step in range(1, steps):
      batches[step]
    wall.append(time.perf_counter() - start)
    cpu.append(time.process_time() - start_cpu)
    padding.append(
      statistics.mean(
        float(batches.packing_statistics(step)["padding"])
        for step in range(epoch)
      )
    )
    start = time.perf_counter()
    fresh = PackedBatches(example_set, shape, seed=repeats + seed)
    with Prefetcher(fresh.__getitem__, stop=steps) as prefetcher:
      for _ in prefetcher:
        pass
    prefetched.append(time.perf_counter() - start)
  return {
    "records_per_batch": shape.records_per_batch,
    "rows": shape.rows,
    "encoder_length": shape.encoder_length,
    "decoder_length": shape.decoder_length,
    "steps_per_epoch": epoch,
    "steps_timed": steps,
    "padding": statistics.mean(padding),
    "records_timed": records,
    "wall_s": wall,
    "cpu_s": cpu,
    "prefetched_s": prefetched,
    "first_batch_s": cold,
  }


def describe(result: Mapping[str, Any]) -> str:
  """One line: medians, lowest and highest of the repetitions."""
  rate = [result["records_timed"] / seconds for seconds in result["wall_s"]]

  def median_rate(name: str) -> float:
    return result["records_timed"] / statistics.median(result[name])

  return (
    f"{result['records_per_batch']:5d} records = {result['rows']} rows of"
    f" {result['encoder_length']}/{result['decoder_length']}: padding"
    f" {result['padding']:.1%}; {measuring.spread(rate, 0)} records/s,"
    f" {median_rate('prefetched_s'):,.0f} prefetched,"
    f" {median_rate('cpu_s'):,.0f} per CPU second; first batch"
    f" {1e3 * statistics.median(result['first_batch_s']):.0f} ms; shape chosen"
    f" in {result['choosing_shape_s']:.1f} s"
  )


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="Speed of the input pipeline, and padding of its batches."
  )
  parser.add_argument("--data_dir", help="folder with the released data")
  parser.add_argument("--task", default="cqa_dss", help="with --data_dir")
  parser.add_argument(
    "--vocabulary", default="bytes", help="with --data_dir: a name or a model"
  )
  parser.add_argument(
    "--records_per_batch", type=int, nargs="+", default=[64, 512]
  )
  parser.add_argument("--attention_length", type=int, default=4096)
  parser.add_argument("--length_multiple", type=int, default=8)
  parser.add_argument("--max_row_length", type=int, default=1024)
  parser.add_argument("--rows_multiple_of", type=int, default=1)
  parser.add_argument("--no_packing", action="store_true")
  parser.add_argument("--repeats", type=int, default=5, help="timed runs")
  parser.add_argument("--json", help="file to write")
  args = parser.parse_args(arguments)

  if args.data_dir:
    example_set = released_example_set(
      args.task, args.data_dir, args.vocabulary
    )
  else:
    example_set = synthetic_example_set()
  results = []
  for records_per_batch in args.records_per_batch:
    start = time.perf_counter()
    shape = choose_batch_shape(
      example_set,
      records_per_batch=records_per_batch,
      rows_multiple_of=args.rows_multiple_of,
      pack=not args.no_packing,
      length_multiple=args.length_multiple,
      max_row_length=args.max_row_length,
      attention_length=args.attention_length,
    )
    chosen_in = time.perf_counter() - start
    result = measure(example_set, shape, repeats=args.repeats)
    results.append({**result, "choosing_shape_s": chosen_in})
  report = {
    "task": example_set.task_name,
    "records": example_set.num_records,
    "lengths": example_set.statistics(),
    "repeats": args.repeats,
    **measuring.description(packages=("numpy",)),
    "results": results,
  }
  print(
    f"{report['task']}: {report['records']} records, {report['repeats']} repeats;"
    f" numpy {report['versions']['numpy']}, {report['cores']} cores, load"
    f" {report['load'][0]:.1f}"
  )
  for result in results:
    print(describe(result))
  measuring.write_json(args.json, report)


if __name__ == "__main__":
  measuring.run(main)
