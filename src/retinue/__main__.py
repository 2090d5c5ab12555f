"""`python -m retinue` is `retinue`."""

from __future__ import annotations

from retinue.cli.main import main

if __name__ == "__main__":
    main()
