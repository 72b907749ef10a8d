"""A page on which a person labels pairs of panels: the same subject, or not."""
