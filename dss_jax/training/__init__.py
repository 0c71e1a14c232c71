"""Training a student: the loop, its steps, and what a run leaves behind."""
