"""Captures: q, k and v of a model that makes a clip, written to a file that ``--inputs capture:`` reads."""
