"""Sweeps: many runs from one declaration, trained side by side, resumable.

    declaration -> cells (what to train) -> queue (who trains it) -> results

A cell is an ordinary run in a folder named after what it trains, so sweeps of
one output folder share the cells that they have in common.
"""
