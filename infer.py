"""`python infer.py ...` is `refine infer ...`; needs only this folder and the dependencies."""

from refine.cli import infer
from refine.command import run

if __name__ == "__main__":
    run(infer, name="infer.py")
