"""Metrics, statistics and calibration: pure functions from scores to estimates with intervals (docs/evidence.md)."""
