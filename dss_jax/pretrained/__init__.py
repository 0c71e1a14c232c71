"""Weights in and out, between dss_jax and other libraries' checkpoints."""
