"""``python -m niwaki`` is the same as ``niwaki``."""

from niwaki.cli import main

if __name__ == "__main__":
    main()
