"""Work on whole DICOM studies: choosing series for a model, writing results as DICOM, batches and archives.

Reading DICOM as images, and the verdict on a series, is in ``medseg.images.dicom``, which the rooms below use too.
"""
