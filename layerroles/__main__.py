"""Run the command line as `python -m layerroles`."""

from layerroles.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
