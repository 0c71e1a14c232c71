"""The students that the benchmarks run, by name."""

from __future__ import annotations

import dataclasses

from dss_jax.models.config import T5Config

# gin/models/bench.gin
BENCH = T5Config(
  vocab_size=32128,
  dtype="float32",
  emb_dim=256,
  num_heads=4,
  num_encoder_layers=4,
  num_decoder_layers=4,
  head_dim=64,
  mlp_dim=512,
)
# For tests of the benchmarks themselves.
TOY = dataclasses.replace(
  BENCH,
  vocab_size=512,
  emb_dim=32,
  num_heads=2,
  num_encoder_layers=1,
  num_decoder_layers=1,
  head_dim=16,
  mlp_dim=64,
)


def _t5_1_1(emb_dim: int, heads: int, layers: int, mlp_dim: int) -> T5Config:
  """gin/models/t5_1_1/*.gin"""
  return dataclasses.replace(
    BENCH,
    dtype="bfloat16",
    emb_dim=emb_dim,
    num_heads=heads,
    num_encoder_layers=layers,
    num_decoder_layers=layers,
    mlp_dim=mlp_dim,
  )


STUDENTS = {
  "toy": TOY,
  "bench": BENCH,
  "small": _t5_1_1(512, 6, 8, 1024),
  "base": _t5_1_1(768, 12, 12, 2048),
  "large": _t5_1_1(1024, 16, 24, 2816),
  "xl": _t5_1_1(2048, 32, 24, 5120),
}
