"""`python train.py ...` is `refine train ...`; needs only this folder and the dependencies."""

from refine.cli import train
from refine.command import run

if __name__ == "__main__":
    run(train, name="train.py")
