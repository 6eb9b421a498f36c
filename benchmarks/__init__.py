"""Measurements that are not tests: they need a card, or minutes."""
