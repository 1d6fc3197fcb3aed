"""Text to token shards: sources, filters, order, work items."""
