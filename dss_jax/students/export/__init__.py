"""A student for other programs: checked folders in the formats they read."""
