"""What whoever runs a server watches: scans by their ids, logs, health and metrics, the newest image of each scan."""
