"""Calibration of the pass threshold on the persona's real photos."""
