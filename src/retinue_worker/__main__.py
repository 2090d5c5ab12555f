"""`python -m retinue_worker serve|train|weigh …`: what runs inside a model's environment."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Dispatch on the first word; returns the exit code."""
    if arguments[:1] == ["serve"]:
        from retinue_worker import serve

        return serve.main(arguments[1:])
    if arguments[:1] == ["train"]:
        from retinue_worker import train

        return int(train.main(arguments[1:]) or 0)
    if arguments[:1] == ["weigh"]:
        from retinue_worker import weigh

        return weigh.main(arguments[1:])
    sys.stderr.write("usage: python -m retinue_worker serve|train|weigh …\n")
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
