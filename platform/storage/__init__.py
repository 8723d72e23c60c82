"""Paths, documents and stores: folders and buckets."""
