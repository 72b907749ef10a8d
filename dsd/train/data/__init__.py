"""The road of a pair, one module a stop: sources -> table -> cache (encoder, store) -> pairs -> sampling -> batch."""
