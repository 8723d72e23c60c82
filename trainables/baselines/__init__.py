"""What methods are held against, one family a file."""
