"""``python -m services.media``."""

from framemesh.service import main
from services.media.worker import Media

if __name__ == "__main__":
    main(Media)
