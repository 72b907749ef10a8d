"""Judges that are asked: a vision-language model with a card that pins it, and its ratings, which outlive it."""
