"""A scan as DICOM: magnitude as MR images, overlay as secondary captures, findings as SEG and SR of TID 1500.

``study``: what all objects share, of whom and with which identifiers. ``mr``, ``capture``, ``findings``: the objects.
``export``: the files. ``send``: to a PACS. pydicom and highdicom come with the extra ``dicom``.
"""
