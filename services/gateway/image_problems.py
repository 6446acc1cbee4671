"""What is wrong with pictures and collections, as problems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from framemesh.database.images import CollectionMissing, Taken
from framemesh.errors import FramemeshError
from services.gateway.problems import Problem


@contextmanager
def of_images() -> Iterator[None]:
    """What a block raises, as a problem that names the field."""
    try:
        yield
    except CollectionMissing as error:
        raise Problem(404, str(error), field="collection") from error
    except Taken as error:
        raise Problem(409, str(error), field=str(error).partition(":")[0]) from error
    except FramemeshError as error:
        raise Problem(400, str(error), field=str(error).partition(":")[0]) from error
