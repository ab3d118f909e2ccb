"""Tests of what the documentation shows with libraries that the extra `test` does not bring."""
