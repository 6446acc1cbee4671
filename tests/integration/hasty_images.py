"""``python -m tests.integration.hasty_images``: the images service, whose cleanup finds every file old enough."""

from __future__ import annotations

from framemesh.service import main
from services.images.worker import Images


class HastyImages(Images):
    """Has no grace."""

    async def prepare(self) -> None:
        """As it always does, with a setting that nobody could give it."""
        object.__setattr__(self.settings, "images_grace", -5.0)
        await super().prepare()


if __name__ == "__main__":
    main(HastyImages)
