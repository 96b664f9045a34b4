"""Entry point of `edge-af` and of `python -m edge_af`."""

import signal


def main() -> None:
    """Run the command line.

    Until the first verb runs there is nothing to clean up, so Ctrl-C ends the process at once. A KeyboardInterrupt
    during an import would print a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # A shell's background jobs ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from edge_af import cli

    cli.main()


if __name__ == "__main__":
    main()
