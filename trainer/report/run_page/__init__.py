"""The page that `banyan report RUN_DIR` writes."""
