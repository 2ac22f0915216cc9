"""Backdoor attacks, re-implemented from their papers. A new attack is one module."""
