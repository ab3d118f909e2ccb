"""`python -m binance_insurance` runs the command line."""

from .cli import main

main()
