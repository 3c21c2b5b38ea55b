"""How a process is seen from outside: its health, its numbers, and where they are served. Nothing here where nobody asks."""
