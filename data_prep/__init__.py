"""Text in, token shards out; token shards in, batches out."""
