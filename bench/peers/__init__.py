"""Other queues in PostgreSQL, doing the same work on the same server, through their own SQL or API."""
