"""What all training scripts share: settings, run folders, batches, and the mechanics of a step."""
