"""Results in words and pictures; ``html.page`` makes the page, ``html.write`` writes it."""
