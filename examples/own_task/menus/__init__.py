"""A task of your own for dss_jax; see README.md."""
