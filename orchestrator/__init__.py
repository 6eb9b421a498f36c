"""orchestrate: a sweep over kohya sd-scripts, from one grid file to one report."""

__version__ = "0.2.0"
