"""Pairs -> adapter: a LoRA that makes the text-to-image model take a reference picture (paper, section 3.3)."""
