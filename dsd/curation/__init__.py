"""Grids -> pairs: cut grids into panels, let a judge say which pairs show one subject, select (paper, section 3.2)."""
