"""`python train.py ...` is `refine train ...`; needs only this folder and the dependencies."""

from refine.cli import run, train

if __name__ == "__main__":
    run(train, name="train.py")
