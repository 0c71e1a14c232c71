"""Asking a teacher: many requests at once, within limits, through faults."""
