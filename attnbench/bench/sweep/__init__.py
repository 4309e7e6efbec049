"""Curves over tokens, frames or density: which points, how they are measured and resumed, how they are shown."""
