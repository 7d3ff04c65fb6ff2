"""Prepared arrays become a checkpoint."""
