"""Personal data and secrets in texts: a file for each kind."""
