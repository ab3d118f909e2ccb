"""What the client costs, beside the code that it replaces: `nox -s bench`."""
