"""WebDatasets of others as they are: an index beside the tars, by which each document is read when its turn comes."""
