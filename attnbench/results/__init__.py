"""What is on disk, and what its samples allow to say."""
