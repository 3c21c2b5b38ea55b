"""Real servers for tests, without containers: fetched or built once, kept in a cache, started on free ports, ended by id."""
