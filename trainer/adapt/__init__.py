"""What a frozen model says of prepared documents, stored beside them in the shards."""
