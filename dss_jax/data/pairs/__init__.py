"""Pairs: what a record's text becomes for each sub-task of a method."""
