"""Parts of a train step by themselves: milliseconds, and of the products' rate.

    python benchmarks/components.py
    python benchmarks/components.py --student base --batches FOLDER --parts mlp

vocabulary  projection, loss and gradients of a batch's targets: fused, plain
optimizer   an update of all parameters: AdamW with clipping, Adafactor, AdamW
            relative to the parameters' sizes
dropout     of an activation, forward and backward: none, a mask a row, a mask
            a position
mlp         a feed-forward layer, forward and backward, and its products alone

Ways of a part take turns. GFLOP/s are of useful work: positions with a target,
for the vocabulary. Attention has a benchmark of its own, `attention.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matmul
import measuring
import numpy as np
import our_training
import prepare
import students

from dss_jax.data.feeding.batch_files import BatchFiles
from dss_jax.models import abstract_params, layer_parts
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.training import losses, optimizers, vocabulary_loss

# Name -> (a run, blocking until done, and its useful FLOPs).
Ways = dict[str, tuple[Callable[[], object], float]]


def _blocking(function: Callable, *arguments: Any) -> Callable[[], object]:
  """Compiled for these arguments, which stay as they are."""
  compiled = jax.jit(function)
  return lambda: jax.block_until_ready(compiled(*arguments))


def vocabulary(config: T5Config, batch: dict[str, np.ndarray]) -> Ways:
  """Losses of a batch's targets, and gradients of hidden states and kernel."""
  targets = jnp.asarray(batch["decoder_target_tokens"])
  counted = jnp.asarray(batch["decoder_loss_weights"]) > 0
  weights = losses.Objective().weighting(prepare.SUBTASKS)(batch)
  keys = jax.random.split(jax.random.key(0))
  hidden = jax.random.normal(
    keys[0], (*targets.shape, config.emb_dim), config.dtype
  )
  kernel = jax.random.normal(keys[1], (config.emb_dim, config.vocab_size))
  params = {"decoder": {"logits_dense": {"kernel": kernel / config.emb_dim}}}
  model = EncoderDecoderModel(config)

  def run(chunk, params, hidden, targets, weights, counted):
    def loss(params, hidden):
      return vocabulary_loss.weighted_loss(
        model.logits,
        params,
        hidden,
        targets,
        weights,
        counted,
        chunk=chunk,
      )

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
      params, hidden
    )

  flops = 6.0 * int(counted.sum()) * config.emb_dim * config.vocab_size
  chunk = vocabulary_loss.positions_at_once(
    config.vocab_size, jax.default_backend()
  )
  arguments = (params, hidden, targets, weights, counted)
  return {
    f"vocabulary, {name}": (
      _blocking(functools.partial(run, size), *arguments),
      flops,
    )
    for name, size in (("fused", chunk), ("plain", None))
  }


def optimizer(config: T5Config, batch: dict[str, np.ndarray]) -> Ways:
  """Updates of all parameters; what they take over is theirs."""
  del batch
  model = EncoderDecoderModel(config)
  shapes = abstract_params.param_shapes(model)

  def way(settings: optimizers.Optimizer) -> Callable[[], object]:
    tx = settings.transform(
      lambda step: jnp.float32(1e-3), shapes, model.param_axes()
    )
    params = jax.jit(model.init)(jax.random.key(0))
    gradients = jax.tree.map(lambda x: 1e-2 * x, params)
    held = [params, jax.jit(tx.init)(params)]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, gradients):
      updates, state = tx.update(gradients, state, params)
      return jax.tree.map(jnp.add, params, updates), state

    def run():
      held[:] = jax.block_until_ready(update(*held, gradients))

    return run

  scaled = optimizers.ParameterScaledAdam(clip_norm=1.0)
  named = {**our_training.OPTIMIZERS, "scaled adam": scaled}
  return {
    f"optimizer, {name}": (way(each), 0.0) for name, each in named.items()
  }


def dropout(config: T5Config, batch: dict[str, np.ndarray]) -> Ways:
  """Of [rows, length, emb] activations and their gradients."""
  shape = (*batch["encoder_input_tokens"].shape, config.emb_dim)
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], shape, config.dtype)

  def run(config, x, key):
    layer = layer_parts.Dropout(config, False)
    rngs = {"dropout": key}
    dropped, back = jax.vjp(lambda x: layer.apply({}, x, rngs=rngs), x)
    return dropped, back(x)

  ways: Ways = {}
  for name, settings in (
    ("none", {"dropout_rate": 0.0}),
    ("length", {"dropout_rate": 0.1, "dropout_broadcast": "length"}),
    ("full", {"dropout_rate": 0.1, "dropout_broadcast": "full"}),
  ):
    kind = dataclasses.replace(config, **settings)
    run_kind = functools.partial(run, kind)
    ways[f"dropout, {name}"] = (_blocking(run_kind, x, keys[1]), 0.0)
  return ways


def mlp(config: T5Config, batch: dict[str, np.ndarray]) -> Ways:
  """A feed-forward layer's outputs and gradients."""
  shape = (*batch["encoder_input_tokens"].shape, config.emb_dim)
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], shape, config.dtype)
  layer = layer_parts.MlpBlock(
    dataclasses.replace(config, dropout_rate=0.0), True
  )
  params = jax.jit(layer.init)(keys[1], x)

  def run(params, x):
    y, back = jax.vjp(layer.apply, params, x)
    return y, back(y)

  def products(x, w_in, w_out):
    """As many, of the same sizes, with nothing between them."""
    h = x @ w_in
    y = h @ w_out
    return y, x.T @ h, h.T @ y, (y @ w_out.T) @ w_in.T

  gates = len(config.mlp_activations)
  flat = x.reshape(-1, config.emb_dim)
  w_in = jnp.ones((config.emb_dim, gates * config.mlp_dim), config.dtype)
  w_out = jnp.ones((gates * config.mlp_dim, config.emb_dim), config.dtype)
  size = 2.0 * len(flat) * config.emb_dim * config.mlp_dim
  return {
    "mlp, layer": (_blocking(run, params, x), 3 * size * (gates + 1)),
    "mlp, products": (
      _blocking(products, flat, w_in, w_out),
      6 * size * gates,
    ),
  }


PARTS = {
  "vocabulary": vocabulary,
  "optimizer": optimizer,
  "dropout": dropout,
  "mlp": mlp,
}


def measure(
  config: T5Config, batch: dict[str, np.ndarray], part: str, repeats: int
) -> dict[str, Any]:
  """Every way of a part, in turns: way -> seconds and FLOPs."""
  ways = PARTS[part](config, batch)
  for run, _ in ways.values():
    run()
  records = measuring.timed_turns(
    {name: run for name, (run, _) in ways.items()}, repeats
  )
  return {
    name: {**records[name], "flops": flops} for name, (_, flops) in ways.items()
  }


def row(name: str, found: dict[str, Any], peak: dict[str, Any]) -> list[str]:
  """A line of the table."""
  wall, cpu = (statistics.median(found[name]) for name in ("wall_s", "cpu_s"))
  flops = found["flops"]
  return [
    name,
    measuring.spread([1e3 * s for s in found["wall_s"]]),
    f"{1e3 * cpu:,.1f}",
    f"{flops / wall / 1e9:,.0f}" if flops else "",
    f"{measuring.share_of_products(peak, flops, wall, cpu):.0%}"
    if flops
    else "",
  ]


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--student", choices=students.STUDENTS, default="bench")
  parser.add_argument("--batches", help="folder of prepare.py; else synthetic")
  parser.add_argument("--records", type=int, default=64)
  parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
  parser.add_argument("--repeats", type=int, default=7, help="timed turns")
  parser.add_argument("--matmul_size", type=int, default=2048)
  parser.add_argument("--smoke", action="store_true", help="a toy, for tests")
  parser.add_argument("--json", help="file to write")
  args = parser.parse_args(arguments)
  wishes: dict[str, int] = {"records": args.records}
  examples: dict[str, int] = {}
  if args.smoke:
    args.student, args.repeats, args.matmul_size = "toy", 2, 256
    wishes, examples = prepare.SMOKE_BATCHES, prepare.SMOKE_EXAMPLES
  config = students.STUDENTS[args.student]
  with tempfile.TemporaryDirectory() as folder:
    if args.batches is None:
      args.batches = prepare.write(
        pathlib.Path(folder),
        prepare.example_set(None, "", **examples),
        steps=1,
        **wishes,
      )
    files = BatchFiles(args.batches)
    batch = files[files.steps[0]]
  # The load before anything of ours runs.
  description = measuring.description(jax.devices()[0].device_kind)
  peak = matmul.rate(args.matmul_size, config.dtype)
  found, rows = {}, []
  for part in args.parts:
    measured = measure(config, batch, part, args.repeats)
    found.update(measured)
    rows += [row(name, way, peak) for name, way in measured.items()]
    # At once: whatever fails later, this was measured.
    measuring.write_json(
      args.json, {**description, "matmul": peak, "components": found}
    )
  print(f"{args.student} student, batches of {pathlib.Path(args.batches).name}")
  header = ("part", "ms", "CPU ms", "GFLOP/s", "of products")
  print(measuring.table(header, rows))
  print(
    f"products of {peak['size']}^3, {peak['dtype']}:"
    f" {peak['flops_per_s'] / 1e9:,.0f} GFLOP/s,"
    f" {peak['flops_per_cpu_s'] / 1e9:,.0f} a CPU second; load average {os.getloadavg()[0]:.1f} on {measuring.cores()} cores"
  )


if __name__ == "__main__":
  measuring.run(main)
