"""The student: T5 in Flax Linen. Only this package imports Flax."""
