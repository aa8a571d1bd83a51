"""Handlers that need no code: the name of a file, and the library that wrote it does the rest.

A library is imported when its model is loaded, never before.
"""
