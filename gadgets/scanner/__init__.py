"""The other end of a server: `client` sends a scan and takes the images, or closes the loop as a scanner would."""
