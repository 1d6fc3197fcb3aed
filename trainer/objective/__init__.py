"""What a row becomes and what its loss is, a file each."""
