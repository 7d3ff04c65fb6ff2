"""Voxels with a place in the patient: reading, writing, orienting, cropping and resampling Volumes."""
