"""Drawing: the pipeline, guidance, offloading, and what is to be drawn."""
