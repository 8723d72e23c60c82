"""Videos, datasets and features: from encoded files to padded batches."""
