"""What of URLs and texts may be recorded, shown and sent: never a password, a query or a token."""
