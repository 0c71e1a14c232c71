"""Feeding: packed batches to a training loop, any step's at any time."""
