"""Prompts -> grids: a text-to-image model draws grids of one subject by in-context prompting (paper, section 3.1)."""
