"""paretovid: the trade-off between quality and compute for conditional video recognition.

The four folders at the repository's root (`platform`, `trainables`, `search_spaces`, `infra`)
are linked into this package, so imports are always `paretovid.<folder>.<module>`.
"""

__version__ = "0.1.0"
