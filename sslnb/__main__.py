"`python -m sslnb`: the command line of `tools/cli.py`. (Written by hand, as the two `__init__.py` are.)"
from .tools.cli import cli

if __name__ == "__main__": cli()
