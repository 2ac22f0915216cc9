"""Trigger families: what a backdoor's trigger may look like. One module each, over one small interface (base.py)."""
