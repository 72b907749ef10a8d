"""Numbers about pictures and decisions, with intervals."""
