"""What sd-scripts writes: file names, checkpoints, logs, and the causes of failures in them."""
