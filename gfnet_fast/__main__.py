"""`python -m gfnet_fast`: the command line, where there is no `gfnet-fast` to call, as under torchrun."""

from gfnet_fast.cli import main

if __name__ == "__main__":
    main()
