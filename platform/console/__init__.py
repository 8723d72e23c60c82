"""Progress lines and tables for people."""
