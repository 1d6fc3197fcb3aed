"""How English is split into words and sentences: as spaCy does, which datatrove counts with."""
