"""Kills a small sweep in every way and place, runs it again, and demands the same end: `make torture`."""
