"""One file a family of models: where its attention is, and what it passes to it."""
