"""`python -m mbactor` is the `mbactor` command."""

from mbactor.cli.main import main

if __name__ == "__main__":
    main()
