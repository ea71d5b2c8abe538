"""Ordinary actors that ship with the library."""
