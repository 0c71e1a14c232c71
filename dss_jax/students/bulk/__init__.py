"""Asking a student about whole files and pipes."""
