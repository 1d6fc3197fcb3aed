"""Data sets in a store that others read: pushed, pulled and listed by their fingerprints."""
