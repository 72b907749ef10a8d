"""A pair on its way to the loss: source, table, cache, sample."""
