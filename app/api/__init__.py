"""The HTTP API: what it takes, what it answers, and every problem it can name."""
