"""How fast a student decodes, against `transformers.generate`.

    python benchmarks/decode.py                                # synthetic inputs
    python benchmarks/decode.py --data_dir DIR --vocabulary SPM_MODEL --json FILE

One model (`--student`, random weights, float32) in two libraries of one process:
ours and `T5ForConditionalGeneration` with the very same numbers, on the same
token ids of CQA. Turns are interleaved (ours, theirs, ours, ...); outputs are
compared token by token. Three kinds of output:

  forced  32 tokens each, whatever they are
  labels  as long as CQA's labels (mostly 2 to 4 tokens): a random model would
          write no ends, so EOS is imposed on both sides alike, when an example
          has as many tokens as its real label
  beam    4 beams, Hugging Face's convention, ends as of labels

`batches` times single batches, `dataset` a whole split: ours by `Generator`,
theirs sorted by length. Theirs gets inference mode, its default attention
(sdpa), and as many threads as there are cores. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import hugging_face
import jax
import jax.numpy as jnp
import measuring
import numpy as np
import prepare
from students import STUDENTS

from dss_jax.models import partitioning
from dss_jax.models.config import T5Config
from dss_jax.models.decoding import (
  beam_search,
  decode_options,
  generation,
  input_batches,
  token_by_token,
)
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import huggingface_weights
from dss_jax.vocabularies import EOS_ID, PAD_ID

FORCED_LENGTH = 32
NUM_BEAMS = 4
# An input's first id tells both sides the length of its label: it is
# FIRST_LENGTH_ID + tokens, EOS included.
FIRST_LENGTH_ID = 100
BARRED = -1e9


# ------------------------------------------------------------------------ inputs


def synthetic(num_examples: int, seed: int = 0) -> list[tuple[int, int]]:
  """Lengths of inputs and labels in tokens, about those of CQA."""
  rng = np.random.default_rng(seed)
  inputs = np.clip(rng.normal(47, 9, num_examples).round(), 24, 106)
  labels = rng.choice([2, 3, 4, 5], num_examples, p=[0.56, 0.32, 0.09, 0.03])
  return list(zip(inputs.astype(int).tolist(), labels.tolist(), strict=True))


def released(data_dir: str, vocabulary: str) -> list[tuple[int, int]]:
  """Lengths of the inputs and labels of the released CQA's test split."""
  from dss_jax import datasets, vocabularies
  from dss_jax.data.tokens import tokenization

  examples_ = tokenization.build_examples(
    "cqa_label",
    "test",
    vocabularies.from_name(vocabulary),
    datasets.DataOptions(data_dir=data_dir),
  )
  (label,) = examples_.subtasks
  return list(
    zip(
      label.input_lengths.tolist(), label.target_lengths.tolist(), strict=True
    )
  )


def token_lists(
  lengths: Sequence[tuple[int, int]], vocab_size: int
) -> list[list[int]]:
  """Random ids of these lengths, the first telling the label's length."""
  rng = np.random.default_rng(1)
  first = min(2 * FIRST_LENGTH_ID, vocab_size // 2)
  return [
    [
      FIRST_LENGTH_ID + label,
      *rng.integers(first, vocab_size, inputs - 2).tolist(),
      EOS_ID,
    ]
    for inputs, label in lengths
  ]


# ------------------------------------------------------------------------- ours


class Scheduled(EncoderDecoderModel):
  """A student whose outputs end when its inputs say so."""

  def init_cache(self, params, encoded, encoder_input_tokens, *args, **kwargs):
    cache = super().init_cache(
      params, encoded, encoder_input_tokens, *args, **kwargs
    )
    lengths = encoder_input_tokens[:, 0] - FIRST_LENGTH_ID
    per_example = {**cache.per_example, "lengths": lengths}
    return dataclasses.replace(cache, per_example=per_example)

  def decode_step(self, params, cache, tokens):
    lengths = cache.per_example["lengths"]
    logits, cache = super().decode_step(params, cache, tokens)
    beams = len(tokens) // len(lengths)
    ends = jnp.repeat(lengths, beams) == cache.index
    column = jnp.where(ends, -BARRED, BARRED)
    return logits.at[:, EOS_ID].set(column), cache


def ours(params, config: T5Config, kind: str) -> Callable:
  """[batch, inputs] int32 -> [batch, length] int32, compiled per shape."""
  model = (EncoderDecoderModel if kind == "forced" else Scheduled)(config)

  @jax.jit
  def decode(params, tokens):
    encoded = model.encode(params, tokens)
    cache = model.init_cache(params, encoded, tokens, FORCED_LENGTH)
    step = functools.partial(model.decode_step, params)
    if kind == "beam":
      return beam_search.beam_search(
        step,
        cache,
        max_decode_length=FORCED_LENGTH,
        num_beams=NUM_BEAMS,
        convention="huggingface",
      )[0][:, 0]
    return token_by_token.greedy(
      step,
      cache,
      max_decode_length=FORCED_LENGTH,
      eos_id=-1 if kind == "forced" else EOS_ID,
    )[0]

  def run(inputs):
    tokens = prepare.padded(inputs, PAD_ID, 8).astype(np.int32)
    return np.asarray(decode(params, tokens))

  return run


def our_dataset(
  params, config: T5Config, kind: str, batch_size: int, inputs: Sequence
):
  """All inputs -> all outputs, in their order, in eight lengths of rows."""
  options = decode_options.DecodeOptions(
    strategy="beam" if kind == "beam" else "greedy",
    num_beams=NUM_BEAMS,
    convention="huggingface",
  )
  generator = generation.Generator(
    Scheduled(config),
    partitioning.Partitioner(),
    options,
    batch_size=batch_size,
  )
  sizes = sorted(map(len, inputs))[::-batch_size]
  lengths = input_batches.declared_lengths(sizes, num_lengths=8)
  generator.declare(lengths=lengths)
  for length in lengths:  # each is compiled before anything is timed
    generator(
      params, [[2] * length] * batch_size, max_decode_length=FORCED_LENGTH
    )

  def run(inputs):
    outputs, _ = generator(params, inputs, max_decode_length=FORCED_LENGTH)
    return outputs

  return run


# ----------------------------------------------------------------------- theirs


def theirs(model: Any, kind: str) -> Callable:
  """Lists of ids -> [batch, length] int64, without the start token."""
  import torch
  import transformers

  class Schedule(transformers.LogitsProcessor):
    def __init__(self, lengths):
      self.lengths = lengths

    def __call__(self, input_ids, scores):
      ends = self.lengths == input_ids.shape[1]
      if beams > 1:  # these are log-probabilities, to be added up
        scores[ends] = BARRED
        scores[:, EOS_ID] = torch.where(ends, 0.0, BARRED)
      else:
        scores[:, EOS_ID] = torch.where(ends, -BARRED, BARRED)
      return scores

  beams = NUM_BEAMS if kind == "beam" else 1
  forced = kind == "forced"
  settings = transformers.GenerationConfig(
    max_new_tokens=FORCED_LENGTH,
    num_beams=beams,
    do_sample=False,
    decoder_start_token_id=0,
    pad_token_id=0,
    eos_token_id=None if forced else EOS_ID,
  )

  def run(inputs):
    tokens = torch.as_tensor(prepare.padded(inputs, PAD_ID)).to(model.device)
    lengths = (tokens[:, 0] - FIRST_LENGTH_ID).repeat_interleave(beams)
    model.generation_config.eos_token_id = None if forced else EOS_ID
    with torch.inference_mode():
      outputs = model.generate(
        input_ids=tokens,
        attention_mask=(tokens > 0).long(),
        generation_config=settings,
        logits_processor=transformers.LogitsProcessorList(
          [] if forced else [Schedule(lengths)]
        ),
      )
    return outputs[:, 1:].cpu().numpy()

  return run


def their_dataset(model: Any, kind: str, batch_size: int) -> Callable:
  """All inputs -> all outputs; batches of like lengths, the longest first."""
  generate = theirs(model, kind)

  def run(inputs):
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    outputs: list[list[int]] = [[] for _ in inputs]
    for start in range(0, len(order), batch_size):
      part = order[start : start + batch_size]
      for i, row in zip(part, generate([inputs[i] for i in part]).tolist()):
        outputs[i] = row[: row.index(EOS_ID)] if EOS_ID in row else row
    return outputs

  return run


# ------------------------------------------------------------------------ timing


def compare(
  sides: dict[str, Callable], work: Sequence, repeats: int, ends: bool
) -> dict[str, Any]:
  """Times both sides on all of `work`, in turns, and compares what they say.

  Args:
    sides: "ours" and "theirs", functions of one element of `work`.
    work: what a turn goes through.
    repeats: turns of each side.
    ends: whether outputs end at their first EOS.
  """
  found: dict[str, Any] = {}
  outputs = {}
  for name, run in sides.items():
    start = time.perf_counter()
    outputs[name] = [run(each) for each in work]
    found[name] = {"first_s": time.perf_counter() - start}
    found[name].update(measuring.empty_record())
  for name in measuring.turns(tuple(sides), repeats):
    with measuring.clock(found[name]):
      for each in work:
        sides[name](each)
  for measure in ("wall_s", "cpu_s"):
    a, b = found["ours"][measure], found["theirs"][measure]
    found[f"{measure}_ratio"] = statistics.median(b) / statistics.median(a)
    found[f"{measure}_ratios"] = [y / x for x, y in zip(a, b, strict=True)]
  same, total = agreement(outputs["ours"], outputs["theirs"], ends)
  found["identical"], found["examples"] = same, total
  return found


def agreement(ours: Sequence, theirs: Sequence, ends: bool) -> tuple[int, int]:
  """How many outputs are the same, of how many."""
  same = total = 0
  for a, b in zip(ours, theirs, strict=True):
    for row_a, row_b in zip(a, b, strict=True):
      total += 1
      same += _until_end(row_a, ends) == _until_end(row_b, ends)
  return same, total


def _until_end(row: Sequence[int], ends: bool) -> list[int]:
  tokens = list(row)
  if ends and EOS_ID in tokens:
    return tokens[: tokens.index(EOS_ID)]
  return tokens


def measure(args) -> None:
  """One row for each kind of output, way of batching and batch size.

  Each is printed and written at once: whatever fails later, it was measured.
  """
  report = measuring.description(str(jax.devices()[0])) | {"rows": []}
  config = STUDENTS["toy" if args.smoke else args.student]
  config = dataclasses.replace(config, dtype="float32")
  if args.data_dir:
    lengths = released(args.data_dir, args.vocabulary)
  else:
    lengths = synthetic(1221)
  inputs = token_lists(lengths, config.vocab_size)
  params = jax.jit(EncoderDecoderModel(config).init)(jax.random.key(0))
  # Larger than at the start of training, lest all outputs be one token.
  params["token_embedder"]["embedding"] *= 4
  weights = huggingface_weights.to_huggingface(jax.device_get(params), config)
  gpu = jax.default_backend() == "gpu"
  model = hugging_face.model_of(
    config, weights, device="cuda" if gpu else "cpu"
  ).eval()
  compiling = measuring.CompileTime()
  rng = np.random.default_rng(0)
  for way in args.ways:
    for kind in args.kinds:
      for size in args.batch_sizes:
        before = compiling.seconds
        if way == "batches":
          count = max(1, args.examples // size)
          work = [
            [inputs[i] for i in rng.choice(len(inputs), size, replace=False)]
            for _ in range(count)
          ]
          sides = {"ours": ours(params, config, kind)}
          sides["theirs"] = theirs(model, kind)
        else:
          if kind == "forced":
            continue
          work = [inputs[: args.dataset_examples]]
          sides = {"ours": our_dataset(params, config, kind, size, work[0])}
          sides["theirs"] = their_dataset(model, kind, size)
        row = {"way": way, "kind": kind, "batch_size": size}
        row.update(compare(sides, work, args.repeats, kind != "forced"))
        row["compile_s"] = compiling.seconds - before
        report["rows"].append(row)
        print(line(row), flush=True)
        measuring.write_json(args.json, report)


def line(row: dict[str, Any]) -> str:
  """A row of the table."""
  cells = [f"{row['way']:8} {row['kind']:7} {row['batch_size']:5}"]
  for name in ("ours", "theirs"):
    walls = [1e3 * s / row["examples"] for s in row[name]["wall_s"]]
    cpu = 1e3 * statistics.median(row[name]["cpu_s"]) / row["examples"]
    cells.append(
      f"{statistics.median(walls):7.2f} ({min(walls):.2f}-{max(walls):.2f})"
      f" cpu {cpu:6.2f}"
    )
  cells.append(f"{row['wall_s_ratio']:5.2f}x cpu {row['cpu_s_ratio']:5.2f}x")
  cells.append(f"same {row['identical']}/{row['examples']}")
  cells.append(f"compile {row['compile_s']:.1f} s")
  return " | ".join(cells)


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data_dir", help="folder with the released data")
  parser.add_argument(
    "--vocabulary", default="bytes", help="with --data_dir: a name or a model"
  )
  parser.add_argument(
    "--student", choices=STUDENTS, default="bench", help="in float32"
  )
  ways, kinds = ("batches", "dataset"), ("forced", "labels", "beam")
  parser.add_argument("--ways", nargs="+", choices=ways, default=ways)
  parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
  parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 64])
  parser.add_argument("--repeats", type=int, default=5, help="timed turns")
  parser.add_argument(
    "--examples", type=int, default=128, help="of a turn over batches"
  )
  parser.add_argument(
    "--dataset_examples", type=int, default=1221, help="of a turn over the set"
  )
  parser.add_argument("--smoke", action="store_true", help="a toy, for tests")
  parser.add_argument("--json", help="file to write")
  args = parser.parse_args(arguments)

  # Waiting threads that spin slow down everything on a shared machine, both
  # sides of the comparison included.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
  import torch

  threads = measuring.cores()
  torch.set_num_threads(threads)
  warnings.filterwarnings("ignore", category=UserWarning)
  print("ms an example, median (lowest-highest), CPU ms: ours | theirs | ratio")
  measure(args)
  print(f"load average {os.getloadavg()[0]:.1f} on {threads} cores")


if __name__ == "__main__":
  measuring.run(main)
