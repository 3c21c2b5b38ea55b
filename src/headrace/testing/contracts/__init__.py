"""
What every store, source, sink and loader must keep, as pytest classes for those who write one.

Derive a class, say in its fixtures how yours is made, and run pytest::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self, tmp_path: Path) -> Store:
            return MyStore(tmp_path)

The tests are the promises of the interfaces' own docstrings. What not everyone can promise stands in classes of its own:
derive from each that your implementation claims.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in (
            "audited_loader",
            "audited_source",
            "crash",
            "keyed_loader",
            "loader",
            "reader",
            "sink",
            "source",
            "store",
        )
    )
)
