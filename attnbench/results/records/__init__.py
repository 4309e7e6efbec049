"""The records of a journal: cells and phases, clips and metrics, whole steps."""
