"""The command line: `pass-recon COMMAND …`, one module per command, nothing heavy imported before a command runs."""
