"""What sd-scripts leaves behind: file names, checkpoints, logs and the causes of failures."""
