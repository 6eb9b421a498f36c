"""All knowledge of kohya sd-scripts: its arguments, command lines, file names, logs and metadata."""
