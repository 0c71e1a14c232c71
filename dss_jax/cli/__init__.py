"""The command line: a file for each mode, their flags, and the edge to gin."""
