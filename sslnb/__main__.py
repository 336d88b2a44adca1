"`python -m sslnb`: the command line of `cli.py`. (Written by hand: the one module that no notebook exports.)"
from .cli import cli

if __name__ == "__main__": cli()
