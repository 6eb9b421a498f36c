"""Grid and settings -> a validated plan: lint, preflight, checks, forecast and frozen inputs."""
