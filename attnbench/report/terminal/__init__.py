"""Results in words and tables for the terminal."""
