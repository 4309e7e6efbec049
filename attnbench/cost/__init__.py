"""What a plan should cost: operations, bytes and bounds."""
