"""``python -m spendflops``."""

from spendflops.cli.main import run

if __name__ == "__main__":
    run()
