"""Comparing runs: their curves, tables and figures."""
