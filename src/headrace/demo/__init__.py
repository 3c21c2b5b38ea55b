"""The demonstration: real market data from a Kafka broker to a table, with a crash on the way."""
