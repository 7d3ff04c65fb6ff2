"""A Case becomes arrays ready for the network: orient, crop, normalise, resample, store."""
