"""Using a student: texts in, labels and rationales out."""
