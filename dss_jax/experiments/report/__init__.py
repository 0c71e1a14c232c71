"""`dss-jax report`: tables, figures and one page about any finished runs."""
