"""The arguments of sd-scripts: names, values, and combinations that fail or have no effect."""
