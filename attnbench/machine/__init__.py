"""This device: its name, clock, memory, and what is installed."""
