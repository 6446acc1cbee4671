"""``python -m services.images``."""

from framemesh.service import main
from services.images.worker import Images

if __name__ == "__main__":
    main(Images)
