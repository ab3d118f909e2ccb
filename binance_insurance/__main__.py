"""`python -m binance_insurance` is the command line."""

from .cli import main

main()
