"""Steps of a pipeline: records are read, asked about, written.

Import them from `dss_jax.rationales.beam`, which tells what to install where
Apache Beam is not. Nothing but that module and these imports Apache Beam.
"""
