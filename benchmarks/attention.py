"""How long attention over packed rows takes, forward and backward.

    python benchmarks/attention.py --json FILE          # on the device at hand
    python benchmarks/attention.py --smoke              # seconds, on any CPU

Implementations (see docs/attention.md) x students x kinds of attention (encoder,
decoder, decoder to encoder), interleaved: one turn of each, then the next round.
Several layers share one position bias, as in a stack; a turn computes the
gradients of queries, keys, values and positions of all of them. Rows hold
examples of lengths like CQA's. A kernel that disagrees with plain attention is
timed all the same and says so. TFLOP/s count all scores of a row, those between
examples too: skipping these shows as a higher rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np
from jax.extend import backend

from dss_jax.base.errors import one_line
from dss_jax.models import attention, layer_parts
from dss_jax.models.kernels import (
  attention_proof,
  cudnn_attention,
  tpu_flash_attention,
  triton_flash_attention,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Shape:
  """A student's attention over a batch of some 64 records."""

  rows: int
  inputs: int  # tokens of an encoder row
  targets: int  # tokens of a decoder row
  heads: int
  head_dim: int = 64


SHAPES = {
  "bench 256/96": Shape(26, 256, 96, 4),
  "base 256/96": Shape(26, 256, 96, 12),
  "base 512/192": Shape(14, 512, 192, 12),
  "large 256/96": Shape(26, 256, 96, 16),
  "large 512/192": Shape(14, 512, 192, 16),
}
SMOKE_SHAPES = {"smoke 128/128": Shape(2, 128, 128, 2, 16)}
KINDS = ("encoder", "decoder", "cross")


def plain(
  query, key, value, position, query_segments, key_segments, *, causal
) -> Array:
  """The plain path: one bias of positions and mask, made once for a stack."""
  same = query_segments[:, None, :, None] == key_segments[:, None, None, :]
  if causal:
    same &= np.tri(query.shape[2], key.shape[2], dtype=bool)
  mask = jnp.where(same, 0.0, layer_parts.MASKED).astype(query.dtype)
  bias = mask if position is None else position + mask
  return attention.dot_product_attention(
    query, key, value, bias, dtype=query.dtype.name
  )


IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
  "xla": plain,
  "cudnn": cudnn_attention.attention,
  "cudnn_dense": functools.partial(cudnn_attention.attention, form="dense"),
  "triton": triton_flash_attention.attention,
  "flash": tpu_flash_attention.attention,
}
_OF_PLATFORM = {
  "cpu": ("xla",),
  "gpu": ("xla", "cudnn", "cudnn_dense", "triton"),
  "tpu": ("xla", "flash"),
}
_SMOKE = ("xla", "triton", "flash")


def packed_rows(rng: np.random.Generator, shape: Shape) -> tuple:
  """Segment ids int32 [rows, inputs] and [rows, targets] of full rows."""
  inputs = np.zeros((shape.rows, shape.inputs), np.int32)
  targets = np.zeros((shape.rows, shape.targets), np.int32)
  for row in range(shape.rows):
    a = b = 0
    for segment in range(1, shape.inputs):
      length = int(np.clip(rng.normal(47, 10), 20, 106))
      # A label of 3 tokens, or a rationale of 30.
      target = 3 if segment % 2 else int(np.clip(rng.normal(30, 8), 5, 60))
      if a + length > shape.inputs or b + target > shape.targets:
        break
      inputs[row, a : a + length] = segment
      targets[row, b : b + target] = segment
      a, b = a + length, b + target
  return inputs, targets


def case(shape: Shape, kind: str, num_layers: int, dtype: str) -> tuple:
  """Arrays for one kind of attention of a stack, and whether it is causal."""
  rng = np.random.default_rng(0)
  inputs, targets = packed_rows(rng, shape)
  queries = inputs if kind == "encoder" else targets
  keys = targets if kind == "decoder" else inputs

  def draw(*dimensions, scale=1.0):
    return jnp.asarray(scale * rng.normal(size=dimensions), dtype)

  def heads(length, *leading, scale=1.0):
    lengths = (*leading, shape.rows, shape.heads, length, shape.head_dim)
    return draw(*lengths, scale=scale)

  q, k = queries.shape[1], keys.shape[1]
  position = None if kind == "cross" else draw(1, shape.heads, q, k)
  arrays = (
    heads(q, scale=shape.head_dim**-0.5),
    heads(k, num_layers),
    heads(k, num_layers),
    position,
  )
  segments = (jnp.asarray(queries), jnp.asarray(keys))
  return arrays, heads(q), segments, kind == "decoder"


def compiled(attend, arrays, cotangent, segments, causal):
  """Values and gradients of a stack of attention layers, compiled."""

  def stack(segments, query, keys, values, position):
    for key, value in zip(keys, values, strict=True):
      x = attend(query, key, value, position, *segments, causal=causal)
      query = query + x * query.shape[-1] ** -0.5  # the next layer's
    return query

  @jax.jit
  def run(arrays, cotangent, segments):
    values, vjp = jax.vjp(functools.partial(stack, segments), *arrays)
    return values, vjp(cotangent)

  return run.lower(arrays, cotangent, segments).compile()


def num_flops(shape: Shape, kind: str) -> int:
  """Floating-point operations of a layer: 2 products forward, 5 backward."""
  queries = shape.inputs if kind == "encoder" else shape.targets
  keys = shape.targets if kind == "decoder" else shape.inputs
  return 14 * shape.rows * shape.heads * queries * keys * shape.head_dim


def _disagreement(name: str, shape: Shape, kind: str, dtype: str):
  """What the proof has against an implementation; None if nothing."""
  try:
    return attention_proof.disproof(
      functools.partial(IMPLEMENTATIONS[name], causal=kind == "decoder"),
      head_dim=shape.head_dim,
      query_length=shape.inputs if kind == "encoder" else shape.targets,
      key_length=shape.targets if kind == "decoder" else shape.inputs,
      position=kind != "cross",
      causal=kind == "decoder",
      dtype=dtype,
    )
  except Exception as error:  # of compilers and drivers, of any kind
    return one_line(error)


def measure(
  shape: Shape, kind: str, names: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
  """One row of results for each implementation, timed in turns."""
  arrays, cotangent, segments, causal = case(
    shape, kind, options.layers, options.dtype
  )
  rows, programs = [], {}
  for name in names:
    row: dict[str, Any] = {"kind": kind, "implementation": name}
    row["disagreement"] = _disagreement(name, shape, kind, options.dtype)
    rows.append(row)
    try:
      program = compiled(
        IMPLEMENTATIONS[name], arrays, cotangent, segments, causal
      )
      jax.block_until_ready(program(arrays, cotangent, segments))
    except Exception as error:
      row["error"] = one_line(error)
      continue
    programs[name] = program
    memory = program.memory_analysis()
    row["temporary_bytes"] = memory and memory.temp_size_in_bytes
    row["ms"] = []
  for _ in range(options.repeats):
    for row in rows:
      if "ms" not in row:
        continue
      start = time.perf_counter()
      result = programs[row["implementation"]](arrays, cotangent, segments)
      jax.block_until_ready(result)
      seconds = time.perf_counter() - start
      row["ms"].append(1000 * seconds / options.layers)
  for row in rows:
    if "ms" in row:
      row["median_ms"] = statistics.median(row["ms"])
      row["tflops"] = num_flops(shape, kind) / row["median_ms"] / 1e9
  return rows


def _print_row(row: dict[str, Any]):
  name = f"{row['shape']:<14} {row['kind']:<8} {row['implementation']:<12}"
  if "error" in row:
    print(f"{name} failed: {row['error']}")
    return
  temporary = (row["temporary_bytes"] or 0) / 2**20
  verdict = row["disagreement"] or "agrees"
  print(
    f"{name} {row['median_ms']:8.3f} {row['tflops']:8.2f}"
    f" {temporary:9.0f}  {verdict}"
  )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description="Times attention.")
  parser.add_argument("--shapes", nargs="*", choices=[*SHAPES, *SMOKE_SHAPES])
  parser.add_argument("--kinds", nargs="*", choices=KINDS)
  parser.add_argument(
    "--implementations", nargs="*", choices=list(IMPLEMENTATIONS)
  )
  parser.add_argument("--layers", type=int, help="of a stack; default 6")
  parser.add_argument("--repeats", type=int, help="rounds; default 30")
  parser.add_argument("--dtype", help="default bfloat16")
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("--smoke", action="store_true")
  options = parser.parse_args(argv)
  platform_names = _OF_PLATFORM.get(jax.default_backend(), ("xla",))
  defaults = {
    "shapes": list(SMOKE_SHAPES if options.smoke else SHAPES),
    "kinds": ("decoder",) if options.smoke else KINDS,
    "implementations": _SMOKE if options.smoke else platform_names,
    "layers": 1 if options.smoke else 6,
    "repeats": 2 if options.smoke else 30,
    "dtype": "float32" if options.smoke else "bfloat16",
  }
  for name, default in defaults.items():
    if not getattr(options, name):
      setattr(options, name, default)
  return options


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Prints a table, writes the JSON file if asked to, returns what is in it."""
  options = _options(argv)
  device = jax.devices()[0]
  results: dict[str, Any] = {
    **measuring.description(f"{len(jax.devices())} x {device.device_kind}"),
    "platform": device.platform,
    "platform_version": backend.get_backend().platform_version,
    "layers": options.layers,
    "dtype": options.dtype,
    "rows": [],
  }
  print(f"{results['device']}, {options.dtype}, milliseconds a layer")
  print(f"{'':<36} {'ms':>8} {'TFLOP/s':>8} {'temp. MiB':>9}")
  for name in options.shapes:
    shape = {**SHAPES, **SMOKE_SHAPES}[name]
    for kind in options.kinds:
      for row in measure(shape, kind, options.implementations, options):
        row = {"shape": name, **dataclasses.asdict(shape), **row}
        results["rows"].append(row)
        _print_row(row)
      results["load_after"] = os.getloadavg()
      # At once: whatever fails later, this was measured.
      measuring.write_json(options.json, results)
  return results


if __name__ == "__main__":
  measuring.run(main)
