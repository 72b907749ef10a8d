"""One picture and a prompt -> picture, with no tuning per subject (paper, section 3.3)."""
