"""From scores to answers: pure functions over values, with the uncertainty that each number deserves.

docs/evidence.md says what every number means and how often, measured, its interval holds.
"""
