"""Token grids, patterns, selection and the attention engines that run patterns. Imports nothing from other rooms."""
