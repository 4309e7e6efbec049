"""What a plan should cost: operations, bytes, bounds."""
