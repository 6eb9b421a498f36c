"""The files below `runs/`: layout, records, state, child processes, locks and hashes."""
