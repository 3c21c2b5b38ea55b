"""Makes and checks the pin: what a stream's prefix holds, decided once (B7)."""

from __future__ import annotations

import secrets

import attrs

from headrace.dataset import Dataset, read_dataset
from headrace.errors import DataError, IdentityError, SinkUnavailableError
from headrace.store import Store


def pin(store: Store, wanted: Dataset) -> Dataset:
    """
    Return the stream's pin, made now where the prefix is empty; a pin made by another writer meanwhile is as good.

    Args:
        store: Where.

        wanted: What the dataset would be; its id is not looked at.

    Raises:
        IdentityError: The prefix holds another dataset; the message says what differs and the ways out.
        DataError: There are segments but no pin.
        SinkUnavailableError: The store did not answer.
    """
    layout = wanted.keys
    found = read_dataset(store, layout)
    if found is None:
        there = store.list(f"{layout.root}partition=").objects
        if not there:
            minted = attrs.evolve(wanted, id=secrets.token_hex(16))
            store.create(layout.pin, minted.to_json(), {})
        # whatever the answer was, and whoever began between the two looks: what counts is what is there
        found = read_dataset(store, layout)
        if there and found is None:
            raise DataError(
                f"{store.place}/{layout.root} holds segments but no {layout.pin}; restore it from a copy, or begin a new"
                " epoch (epoch=NAME): without it nobody can tell whose segments these are"
            )
    if found is None:
        raise SinkUnavailableError(f"{store.place}/{layout.pin} was written and is not there to be read yet; try again")
    differences = found.differences(wanted)
    if differences:
        raise IdentityError(
            f"{store.place}/{layout.root} is pinned to another dataset: {'; '.join(differences)}. Undo the change, write to"
            " another place, or begin a new epoch beside the old one (epoch=NAME); the two are never mixed"
        )
    if wanted.partitions < found.partitions:
        raise IdentityError(
            f"{store.place}/{layout.root}: the stream has {wanted.partitions} partitions now, and had {found.partitions} when the"
            " lake was pinned: what comes to the others would never be read. Read all of them, or begin a new epoch (epoch=NAME)"
        )
    return found
