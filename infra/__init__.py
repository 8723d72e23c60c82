"""Where sweeps run: Ray clusters and their settings."""
