"""Log lines on stderr, as sd-scripts writes them on a wide terminal."""

import sys
import time


def info(message: str) -> None:
    _line("INFO", message)


def warning(message: str) -> None:
    _line("WARNING", message)


def error(message: str) -> None:
    _line("ERROR", message)


def _line(level: str, message: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level:<8} {message}", file=sys.stderr, flush=True)
