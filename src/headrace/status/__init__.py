"""How a deployment stands, seen from outside: what log, lake and warehouse say of themselves, in few requests."""
