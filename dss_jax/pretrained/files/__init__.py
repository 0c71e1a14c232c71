"""File formats of checkpoints, read by parts and within bounds."""
