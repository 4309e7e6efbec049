"""A request becomes rows: verified, timed, journaled."""
