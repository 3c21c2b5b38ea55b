"""A file of trades to the lake and on to a table; run it again, or kill it and run it again: nothing is lost or doubled."""

from pathlib import Path

from headrace import Chain, Load, Pipeline, Registry
from headrace.demo.contracts import Trade  # an attrs class: what a row is

here = Path.cwd()
registry = Registry.discover()
source = registry.source(f"jsonl://{here}/trades.jsonl?key=symbol")  # or "kafka://127.0.0.1:9092/trades?group=bronze"
sink = registry.sink(f"file://{here}/lake")
print(Pipeline(source=source, sink=sink, until_end=True).run())

chain = Chain.open(registry.store(f"file://{here}/lake"), "trades")
loader = registry.loader(f"duckdb://{here}/silver.duckdb?table=trades", Trade)
print(Load(chain=chain, loader=loader).run())
