"""A Plan becomes a torch module."""
