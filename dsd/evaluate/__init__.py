"""Pictures -> numbers: what the student keeps of a subject it has never seen, and how each stage before it did."""
