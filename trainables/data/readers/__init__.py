"""Annotation files of public and own video sets, read as they are published: one file per format."""
