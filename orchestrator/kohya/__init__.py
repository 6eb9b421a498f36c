"""Everything specific to kohya sd-scripts: arguments, command lines, file names, logs and metadata."""
