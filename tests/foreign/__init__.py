"""Tests beside other programs' clients, which `nox -s foreign` installs and runs."""
