"""Kills a small sweep at every write and at random, runs it again, and compares the results: `make torture`."""
