"""One recipe for each verb of the command line, read from top to bottom; none imports another."""
