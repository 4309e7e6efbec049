"""Captures: q, k and v of a model that is making a clip, written to a file that ``--inputs capture:`` reads."""
