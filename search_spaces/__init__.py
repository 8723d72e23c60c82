"""The Hydra configuration tree and the typed schema of every setting and knob."""
