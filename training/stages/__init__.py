"""The stages of training, a file each: settings, loss and loop, to be read from top to bottom."""
