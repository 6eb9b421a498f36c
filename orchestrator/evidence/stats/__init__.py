"""Statistics on plain numbers; no files, no records."""
