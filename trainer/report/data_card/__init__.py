"""The data card: what is in an output of prepare, as one page and as Markdown."""
