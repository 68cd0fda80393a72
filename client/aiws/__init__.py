"""Where the command line begins: with as few imports as there can be, so that Ctrl-C ends it without a traceback."""

import signal


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from aiworkspace_client.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
