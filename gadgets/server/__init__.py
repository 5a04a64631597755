"""The embedded server, which runs the same configurations as a Gadgetron."""
