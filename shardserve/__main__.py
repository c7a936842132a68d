"""``python -m shardserve`` is the ``shardserve`` command. May hold nothing else."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="shardserve")
