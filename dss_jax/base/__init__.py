"""What every part does alike: errors, checks, files, JSON, special ids."""
