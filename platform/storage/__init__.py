"""Paths, documents, buckets and locks."""
