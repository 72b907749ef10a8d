"""A student or its pairs for others."""
