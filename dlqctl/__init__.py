"""A dead-letter queue for webhooks that lives in PostgreSQL: installs it, verifies it, asks how it is."""

__version__ = "0.1.0.dev0"
