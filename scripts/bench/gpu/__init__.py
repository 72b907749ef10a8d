"""What `gpu_report.py` measures, a module a section. The other benchmarks share `released`, `sides` and `steps`."""
