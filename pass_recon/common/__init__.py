"""What more than one house uses: files written whole, work over all cores."""
