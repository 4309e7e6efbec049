"""Attention over several processes, each of which has some of the tokens."""
