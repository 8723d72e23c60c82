"""What a sweep leaves on disk: its description, its trials' results, its journal."""
