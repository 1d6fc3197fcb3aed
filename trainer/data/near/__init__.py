"""Documents that are nearly the same: MinHash signatures, candidates by bands, exact comparison, one global union."""
