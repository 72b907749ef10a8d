"""The data sets and the result layouts of the field's benchmarks, as their public repositories have them."""
