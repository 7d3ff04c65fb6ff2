"""Measuring medseg side by side with its peers: same inputs, same threads, turn by turn, parity before time."""
