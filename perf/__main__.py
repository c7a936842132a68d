"""``python -m perf``: the door to cli.py, and nothing else."""

from perf.cli import main

if __name__ == "__main__":
    main()
