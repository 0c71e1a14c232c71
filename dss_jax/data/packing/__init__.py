"""Packing: several short examples to a row, in batches of one shape."""
