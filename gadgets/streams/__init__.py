"""Scans from pipes and images into pipes: ``mrd``, the messages of the wire; ``mrd2``, the format of mrd-python."""
