"""One search, driven from its start to its last result."""
