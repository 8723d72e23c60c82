"""Networks that no library has as their weights need them, one file each, and those of libraries without their head."""
