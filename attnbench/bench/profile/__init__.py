"""Where the time of a call goes: phases from the profiler's raw events, checked against the unprofiled latency."""
