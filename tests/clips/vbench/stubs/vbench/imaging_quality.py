"""Does not import."""

raise ImportError("no pyiqa here")
