"""`orchestrate` and `python -m orchestrator`. Ctrl-C ends them quietly, also while the command line is imported."""

import os
import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from orchestrator.cli import main as command_line

    command_line(prog_name="orchestrate")


if __name__ == "__main__":
    main()
