"""Weights in and out, between dss_jax and other libraries' checkpoints."""

from dss_jax.pretrained.opening import Pretrained, open_pretrained

__all__ = ["Pretrained", "open_pretrained"]
