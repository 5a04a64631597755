"""What whoever runs a server watches: scans by their ids, logs, health and metrics. It knows nothing of images."""
