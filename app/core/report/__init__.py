"""Findings in, a report out: one JSON document, and one page for people made from nothing but that document.

The report does not know how anything was found, and runs without torch.
"""
