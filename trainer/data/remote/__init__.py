"""Token shards that lie elsewhere: fetched ahead of use into a cache that the ranks of a node share."""
