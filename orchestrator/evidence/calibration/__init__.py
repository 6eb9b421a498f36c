"""The persona's own yardstick: measured from real photos, kept beside the sweeps, used by every later report."""
