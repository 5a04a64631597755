"""Images from undersampled k-space: classical methods that need no training, and the unrolled network."""
