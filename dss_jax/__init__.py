"""dss_jax: distilling step-by-step in JAX.

This package imports nothing here, so `import dss_jax` is instant and pulls in
neither JAX nor TensorFlow. Import the module you need.
"""

__version__ = "0.1.0"
