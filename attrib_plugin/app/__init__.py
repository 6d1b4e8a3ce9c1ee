"""Screens: command line, demo, bundled models. The only room that imports model libraries."""
