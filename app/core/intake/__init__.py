"""Intake: untrusted bytes in, facts or a reasoned refusal out. Nothing is executed, and torch is never imported."""
