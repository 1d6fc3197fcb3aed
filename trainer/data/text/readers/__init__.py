"""One file for each kind of source: how its documents are read, and where it can be cut into parts."""
