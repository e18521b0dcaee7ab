"""Tables, and queries as values; the API runs them on an async session, the workers on a sync one."""
