"""The rules of what plug-ins add, as suites that their tests inherit, and ours: a failure begins with its rule."""
