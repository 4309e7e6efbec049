"""A whole transformer step, with and without a method."""
