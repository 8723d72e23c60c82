"""One training: its configuration, its loop, its checkpoints."""
