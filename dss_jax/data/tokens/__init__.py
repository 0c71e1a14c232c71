"""Tokens: pairs as token arrays, in memory and on disk."""
