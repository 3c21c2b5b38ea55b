"""
From segments to typed rows, once and outside the warehouse: every warehouse gets the same ones (`headrace.rows` says which).

DuckDB's engine does it by the block, whatever the warehouse is; so every loader that types with it needs the extra ``duckdb``.
"""
