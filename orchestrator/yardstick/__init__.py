"""The persona's own yardstick: measured from photos of her, kept beside the sweeps, used by every later report."""
