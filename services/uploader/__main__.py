"""``python -m services.uploader``."""

from framemesh.service import main
from services.uploader.uploader import Uploader

if __name__ == "__main__":
    main(Uploader)
