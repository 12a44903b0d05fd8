"""`python -m neurotool` is the command `neurotool`."""

from neurotool.cli.main import main

if __name__ == "__main__":
    main()
