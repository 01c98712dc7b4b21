"""Where the command `fedpeg` begins: an interruption is quiet even while the rest is loading."""

import sys

EXIT_INTERRUPTED = 128 + 2


def main() -> int:
    """Load the program and run it; its exit code."""
    try:
        from federation.cli import main as run  # loading takes most of a short command's time
    except KeyboardInterrupt:
        print("fedpeg: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return run()


if __name__ == "__main__":
    sys.exit(main())
