"""``python -m sync`` and the console command ``nightshift``."""

from sync.cli import main

if __name__ == "__main__":
    main()
