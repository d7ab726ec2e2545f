"""``python -m offbragg`` is ``offbragg``."""

from offbragg.cli import main

if __name__ == "__main__":
    main()
