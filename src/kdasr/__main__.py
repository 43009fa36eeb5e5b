"""`python -m kdasr`: the command line, for launchers such as torchrun."""

from kdasr.cli.main import main

if __name__ == "__main__":
    main()
