"""`python -m refine` is `refine`, also where the folder of scripts is not on the path."""

from refine.cli import main

if __name__ == "__main__":
    main()
