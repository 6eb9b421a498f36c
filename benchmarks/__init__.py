"""Measurements that are not tests: they need a GPU, or minutes."""
