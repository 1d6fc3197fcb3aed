"""Where metrics go, a file each."""
