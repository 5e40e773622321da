"""Timings that anyone can rerun: ``python -m benchmarks``, and the ten-seed table of the main job."""
