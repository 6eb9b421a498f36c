"""The arguments of sd-scripts: which exist, which values they take, which combinations fail."""
