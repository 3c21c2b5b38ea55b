"""
The audit: from the log's offsets to the warehouse's rows, read around the code that wrote them.

It shares with the rest of headrace what it cannot be wrong by: a store's `list` and `read`, which return names and bytes; a
source's questions to its servers; the value of a record; and `headrace.rows`, the careful path from one record to one row, which
loaders do not load by. It has its own listing of names, its own reader of pins, notes, trailers and lines, its own idea of what a
chain is, and counts tables by SQL of its own. So a fault in the code that writes cannot hide here.

It reads against the flow (B30): the warehouse first, then the lake, then the log. What comes in meanwhile is only ever further
along upstream, and so is behind, not wrong; and what looks wrong is looked at again before it is told.
"""
