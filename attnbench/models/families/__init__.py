"""One file for each family of models: where its attention is, and what the model passes to it."""
