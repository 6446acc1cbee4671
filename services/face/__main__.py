"""``python -m services.face``."""

from framemesh.service import main
from services.face.worker import FaceInference

if __name__ == "__main__":
    main(FaceInference)
