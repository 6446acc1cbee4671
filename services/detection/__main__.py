"""``python -m services.detection``."""

from framemesh.service import main
from services.detection.worker import DetectionInference

if __name__ == "__main__":
    main(DetectionInference)
