"""The page that `banyan explain` writes."""
