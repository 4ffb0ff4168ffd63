"""`python -m vitdex.query`: the command line, where its script is not on the path."""

from .commands.main import main

if __name__ == "__main__":
    main()
