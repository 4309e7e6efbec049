"""What attention in video models looks like, and whether what methods assume of it holds."""
