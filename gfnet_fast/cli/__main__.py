"""`python -m gfnet_fast.cli`, for torchrun."""

from gfnet_fast.cli import main

if __name__ == "__main__":
    main()
