"""Videos and data sets: from encoded files to decoded steps."""
