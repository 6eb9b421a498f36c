"""What users write: orchestrate.toml and grids, read into typed values."""
