"""SeqIO registrations of the datasets dss_jax knows: `import dss_jax.tasks`."""

if __name__ != "dss_jax.tasks":
  raise ImportError(
    f"This package is `dss_jax.tasks`, not {__name__!r}: importing it under"
    " two names would register every SeqIO task twice."
  )

from dss_jax.tasks import anli, asdiv, cqa, esnli, families, svamp, taxonli

__all__ = ["anli", "asdiv", "cqa", "esnli", "families", "svamp", "taxonli"]
