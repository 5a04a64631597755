"""What more than one part of the project uses and that belongs to none: files, settings, parallel work."""
