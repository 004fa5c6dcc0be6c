"""`python -m bamboo_sessions` is the command line."""

from bamboo_sessions.cli import main

if __name__ == "__main__":
    main()
