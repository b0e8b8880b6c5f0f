"""Measurements of the sweep engine; see docs/benchmarks.md."""
