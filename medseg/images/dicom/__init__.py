"""DICOM as images: a folder of files becomes series with a verdict on their geometry, and a series becomes a Volume.

Knows nothing of models or of writing DICOM, which ``medseg.dicom`` does. Everything here needs the extra ``dicom``.
"""
