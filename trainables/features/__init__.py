"""Features of videos: computed once, stored, and read in padded batches."""
